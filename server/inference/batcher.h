// Gathers images of many requests into batches, because a forward pass over
// eight images costs less than eight passes over one.
//
//   Submit -> queue -> preprocess threads -> ready inputs -> workers -> done
//
// Decoding overlaps the forward passes. Each worker normally runs a forward
// pass of its own on one thread: streams without barriers, two of which beat
// one pass on two threads. An image that is alone in here has no delay: one of
// several workers decodes it, too, and has all threads for its forward pass.
// Where more are about to be ready, an idle worker waits for them, but not
// longer than `max_delay`, and takes no more than its share of all that is in
// here. Batches so grow by themselves when requests come faster than they are
// answered. BatchQueue has the rules, and those of fairness.
//
// Work whose caller has gone or whose deadline has passed is dropped before it
// is decoded, before it is computed, and when its place is needed; what would
// not meet its deadline is refused at once, where recent throughput tells so.
//
// Memory: at most 2 * workers * max_batch + 1 a model inputs, half of them
// decoded ahead of the half in forward passes. They are kept and used again.

#ifndef SERVER_INFERENCE_BATCHER_H_
#define SERVER_INFERENCE_BATCHER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/buffer.h"
#include "common/mutex.h"
#include "server/inference/batch_item.h"
#include "server/inference/batch_queue.h"
#include "server/inference/servable.h"
#include "server/inference/throughput.h"

namespace finetune {

// Thread-safe.
class Batcher {
 public:
  // Of a lone image's forward pass: it gains little from more, and each worker
  // keeps its helpers.
  static constexpr int kMostThreads = 8;

  struct Options {
    size_t max_batch = 32;                             // Images, >= 1.
    size_t max_waiting = 512;                          // Images, >= 1.
    absl::Duration max_delay = absl::Milliseconds(2);  // 0..1 h.
    int preprocess_threads = 1;                        // >= 1.
    // Forward passes at once, and the threads of a lone one; >= 1.
    int workers = 1;
    size_t input_bytes = size_t{3} * 224 * 224;  // Of one image, >= 1.
    AllocateFn allocate_input = AllocateOnHeap;
    // After each forward pass, on its thread. Empty: nobody is told.
    std::function<void(const v1::Model&, size_t images)> on_batch;
    std::function<absl::Time()> now = absl::Now;  // For tests.
  };
  // Of images, since the start where not of now.
  struct Stats {
    size_t waiting = 0;      // Now.
    size_t computing = 0;    // Now.
    uint64_t expired = 0;    // Dropped: the deadline had passed.
    uint64_t cancelled = 0;  // Dropped: the caller had gone.
    uint64_t refused = 0;    // Not accepted: no room, or no time.
  };
  using DoneFn = std::function<void(absl::StatusOr<ClassifyOutcome>)>;

  Batcher(Options options, PreprocessFn preprocess);

  // As Shutdown.
  ~Batcher();

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Calls `done` exactly once, on a thread of the batcher or before returning;
  // it must not block. An image that cannot be decoded fails alone, and with
  // INTERNAL those of a forward pass that throws. All together fail with
  //   RESOURCE_EXHAUSTED and RetryInfo  the images do not fit the queue, or
  //                                     would not be answered in time;
  //   DEADLINE_EXCEEDED or CANCELLED    found so while they waited;
  //   UNAVAILABLE and RetryInfo         after Shutdown.
  // REQUIRES: work.images is not empty.
  void Submit(ClassifyWork work, DoneFn done) ABSL_LOCKS_EXCLUDED(mu_);

  // Refuses new work, finishes what waits, and returns. What still waits at
  // `until` is answered UNAVAILABLE; what is in work is always finished.
  // Idempotent, but not to be called twice at once.
  void Shutdown(absl::Time until = absl::InfiniteFuture())
      ABSL_LOCKS_EXCLUDED(mu_);

  Stats stats() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // Requests that have all their answers: `done` is called, and models are
  // freed, without the lock.
  using Finished = std::vector<std::shared_ptr<PendingClassify>>;

  // Why `request` cannot be accepted.
  absl::Status CheckAdmission(PendingClassify& request, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration RetryDelay(absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // What the threads do.
  void Preprocess() ABSL_LOCKS_EXCLUDED(mu_);
  void Compute() ABSL_LOCKS_EXCLUDED(mu_);

  // Decodes the next image, without the lock.
  // REQUIRES: queue_.CanDecode().
  void DecodeNext(Finished& finished) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Decode(BatchItem& item) const;
  // Returns when there is a lone image to decode or a batch is due; false:
  // neither will be any more.
  bool AwaitWork(absl::Time idle_since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // For a forward pass over `batch` images.
  int ThreadsOf(size_t batch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(std::vector<BatchItem> batch, int threads) ABSL_LOCKS_EXCLUDED(mu_);

  // The image has its answer: takes its input back.
  void End(BatchItem& item, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same for an image that is not wanted any more.
  void Drop(BatchItem& item, Finished& finished)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountFailed(const absl::Status& status, size_t images)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void CallBack(Finished finished);

  const Options options_;
  const PreprocessFn preprocess_;
  mutable Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  BatchQueue queue_ ABSL_GUARDED_BY(mu_);
  Throughput throughput_ ABSL_GUARDED_BY(mu_);
  std::vector<Buffer> spare_inputs_ ABSL_GUARDED_BY(mu_);
  Stats counts_ ABSL_GUARDED_BY(mu_);  // Without those of now.
  std::vector<std::jthread> threads_;  // Last: start when all above exists.
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_BATCHER_H_
