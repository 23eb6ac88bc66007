// What is known of each job, and who is told when it changes.
//
// A job is the contract's own message, v1::FineTuneJob: one vocabulary from
// the trainer's events to the wire, and nothing to keep in step.

#ifndef SERVER_JOBS_JOB_STORE_H_
#define SERVER_JOBS_JOB_STORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "finetune/v1/training_service.pb.h"

namespace finetune {

// SUCCEEDED or FAILED: the job will not change any more.
bool IsTerminal(v1::JobState state);

// Thread-safe; no call waits for training. In memory: forgotten at exit.
class JobStore {
 public:
  using Snapshot = std::shared_ptr<const v1::WatchProgressResponse>;

  // Told of a job's changes one after another, on whichever thread made them
  // and with the store locked: must not block, nor call the store.
  using WatchFn = std::function<void(const Snapshot&)>;

  // Beyond `max_jobs` >= 1, the oldest job in a terminal state is forgotten:
  // a few KiB each.
  explicit JobStore(size_t max_jobs = 10'000) : max_jobs_(max_jobs) {}

  // REQUIRES: job.job_id() is new.
  void Add(v1::FineTuneJob job) ABSL_LOCKS_EXCLUDED(mu_);

  // NOT_FOUND with ResourceInfo.
  absl::StatusOr<v1::FineTuneJob> Get(const std::string& job_id) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // Applies `change` and tells the watchers. No effect on an unknown job.
  void Update(const std::string& job_id,
              const std::function<void(v1::FineTuneJob&)>& change)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Calls `watch` for every change until Unwatch, and at once with the present
  // state if its sequence is above `after_sequence` or it is terminal. Returns
  // the watch's id, or NOT_FOUND.
  absl::StatusOr<uint64_t> Watch(const std::string& job_id,
                                 uint64_t after_sequence, WatchFn watch)
      ABSL_LOCKS_EXCLUDED(mu_);

  // When this returns, the watch's function neither runs nor will.
  void Unwatch(const std::string& job_id, uint64_t watch_id)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Record {
    Snapshot latest;  // Replaced, never changed.
    std::map<uint64_t, WatchFn> watches;
  };

  void ForgetOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_jobs_;
  mutable Mutex mu_;
  uint64_t next_watch_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, Record> jobs_ ABSL_GUARDED_BY(mu_);  // By age, see ids.
};

}  // namespace finetune

#endif  // SERVER_JOBS_JOB_STORE_H_
