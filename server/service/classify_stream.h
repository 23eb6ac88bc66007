// One call of ClassifyStream.
//
// Each image is a ClassifyCall of its own, so that it shares batches with
// everybody else's. A stream holds at most `max_stream_items` images and
// answers, and images of 64 MiB; it issues no read beyond, and HTTP/2's flow
// control then holds the caller back. An idle stream costs a few hundred bytes
// and no thread.

#ifndef SERVER_SERVICE_CLASSIFY_STREAM_H_
#define SERVER_SERVICE_CLASSIFY_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "finetune/v1/inference_service.pb.h"
#include "grpcpp/alarm.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/classifier.h"
#include "server/service/convert_inference.h"

namespace finetune {

// Deletes itself when the call is over and the last of its images, which the
// classifier may still hold then, has come back.
class ClassifyStream final
    : public grpc::ServerBidiReactor<v1::ClassifyStreamRequest,
                                     v1::ClassifyStreamResponse> {
 public:
  using OverFn = std::function<void(ClassifyStream*)>;

  // `deadline` is the call's. `on_over` is called once, when gRPC is done with
  // the call. `classifier` must outlive this.
  ClassifyStream(Classifier& classifier, const ClassifyLimits& limits,
                 absl::Time deadline, OverFn on_over);

  // The server shuts down: reads no more, answers what the classifier has, and
  // ends with UNAVAILABLE. Thread-safe; not after `on_over`.
  void ShutDown() ABSL_LOCKS_EXCLUDED(mu_);

  void OnReadDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mu_);
  void OnDone() override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // With its image, which the classifier only looks at.
  using Item = std::shared_ptr<v1::ClassifyStreamRequest>;

  void Take(v1::ClassifyStreamRequest request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Hands on what is ready, then does what else is due.
  void Pump() ABSL_LOCKS_EXCLUDED(mu_);
  // `answered` is answered_ at the time.
  void Submit(const Item& item, uint64_t answered) ABSL_LOCKS_EXCLUDED(mu_);
  void OnAnswer(const Item& item, uint64_t answered,
                const absl::StatusOr<ClassifyAnswer>& answer)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Keeps an item that found the queue full, until an answer makes room or the
  // queue's delay is over.
  void Hold(const Item& item, uint64_t answered, const absl::Status& full)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnAlarm(bool expired) ABSL_LOCKS_EXCLUDED(mu_);
  // Gives up what the classifier does not have; `lost` says that an item has
  // been given up already.
  void GiveUp(const absl::Status& status, bool lost)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Starts the read, the write or the end that is due.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishOnce(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Release();

  Classifier& classifier_;
  const ClassifyLimits limits_;
  const absl::Time deadline_;
  const OverFn on_over_;
  v1::ClassifyStreamRequest request_;  // Belongs to the read that goes on.
  std::atomic<bool> gone_ = false;     // Nobody waits for answers any more.

  Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;   // The first of answers_.
  bool pumping_ ABSL_GUARDED_BY(mu_) = false;   // A thread is in Pump's loop.
  bool blocked_ ABSL_GUARDED_BY(mu_) = false;   // The queue was full last time.
  bool dropping_ ABSL_GUARDED_BY(mu_) = false;  // GiveUp was called.
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  // How the call ends when all answers are out; nothing is read any more.
  std::optional<absl::Status> ending_ ABSL_GUARDED_BY(mu_);
  // An item is in one of these three.
  std::deque<Item> ready_ ABSL_GUARDED_BY(mu_);  // To be submitted.
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;       // With the classifier.
  std::deque<v1::ClassifyStreamResponse> answers_ ABSL_GUARDED_BY(mu_);
  uint64_t answered_ ABSL_GUARDED_BY(mu_) = 0;   // By the classifier, ever.
  size_t image_bytes_ ABSL_GUARDED_BY(mu_) = 0;  // Of the first two.
  std::optional<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mu_);
  bool alarm_is_set_ ABSL_GUARDED_BY(mu_) = false;

  // The call, each item in flight, and an alarm that is set.
  std::atomic<int> users_ = 1;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_CLASSIFY_STREAM_H_
