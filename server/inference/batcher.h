// Gathers images of many requests into batches, because a forward pass over
// eight images costs less than eight passes over one.
//
// It never waits for a batch to fill: whatever is there when the device is
// free goes, so a lone request has no delay, and batches grow by themselves
// when requests come faster than they are answered.

#ifndef SERVER_INFERENCE_BATCHER_H_
#define SERVER_INFERENCE_BATCHER_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "server/inference/servable.h"

namespace finetune {

struct ClassifyWork {
  std::shared_ptr<const Servable> servable;  // Answers all of the images.
  std::vector<absl::string_view> images;     // Encoded; alive until `done`.
  absl::Time deadline = absl::InfiniteFuture();
  // Whether the caller has gone. Empty: never.
  std::function<bool()> cancelled;
};

struct ClassifyOutcome {
  std::vector<absl::StatusOr<Probabilities>> images;  // As in the work.
  // The largest of each among the batches that held the images.
  absl::Duration queue, preprocess, compute;
  int batch_size = 0;
};

// Thread-safe.
class Batcher {
 public:
  struct Options {
    size_t max_batch = 32;     // Images, >= 1.
    size_t max_waiting = 512;  // Images, >= 1.
  };
  using DoneFn = std::function<void(absl::StatusOr<ClassifyOutcome>)>;

  explicit Batcher(Options options);

  // As Shutdown.
  ~Batcher();

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Calls `done` exactly once, on the batcher's thread or before returning; it
  // must not block. With
  //   RESOURCE_EXHAUSTED and RetryInfo  the images do not fit the queue;
  //   DEADLINE_EXCEEDED or CANCELLED    found so when their turn came;
  //   INTERNAL                          the model threw;
  //   UNAVAILABLE and RetryInfo         after Shutdown.
  // REQUIRES: work.images is not empty.
  void Submit(ClassifyWork work, DoneFn done) ABSL_LOCKS_EXCLUDED(mu_);

  // Refuses new work, finishes what waits, and returns. Idempotent.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Request;
  struct Item {
    std::shared_ptr<Request> request;
    size_t index;  // Into the request's images.
  };

  void Work() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Item> TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Run(std::vector<Item> batch);

  const Options options_;
  Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<Item> waiting_ ABSL_GUARDED_BY(mu_);
  std::jthread worker_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_BATCHER_H_
