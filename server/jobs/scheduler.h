// Runs jobs in the order in which they were accepted, by default one at a
// time: one device, and two trainings at once would only slow each other.
// What it does outlives it: a scheduler on the same store goes on where the
// one before was stopped or killed.

#ifndef SERVER_JOBS_SCHEDULER_H_
#define SERVER_JOBS_SCHEDULER_H_

#include <deque>
#include <map>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "finetune/v1/training_service.pb.h"
#include "server/jobs/job_runner.h"
#include "server/jobs/job_store.h"

namespace finetune {

// Thread-safe.
class Scheduler {
 public:
  struct Options {
    size_t max_waiting = 16;   // Accepted and not yet started, >= 1.
    size_t max_running = 1;    // At once, >= 1.
    size_t max_jobs = 10'000;  // Known; the oldest that ended are forgotten.
  };

  // Queues what `store` has, the jobs that ran first, and removes the folders
  // of jobs that it does not have. Both must outlive this.
  Scheduler(const Options& options, JobStore& store, JobRunner& runner);

  // Begins to run jobs. Once.
  void Start();

  // As Shutdown.
  ~Scheduler();

  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Returns the job as it was queued, on disk, or the one that the same request
  // made before. ALREADY_EXISTS as JobStore::FindRequest; RESOURCE_EXHAUSTED
  // with RetryInfo if `max_waiting` jobs wait; UNAVAILABLE with RetryInfo after
  // Shutdown.
  absl::StatusOr<v1::FineTuneJob> Submit(JobRequest request)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Scans the request's data set as a job would and returns the job as it
  // would be; keeps nothing. Takes as long as the scan; CANCELLED soon after
  // a stop request. RESOURCE_EXHAUSTED with RetryInfo if two others go on.
  absl::StatusOr<v1::FineTuneJob> Validate(const JobRequest& request,
                                           const std::stop_token& stop)
      ABSL_LOCKS_EXCLUDED(mu_);

  // As CancelFineTune and ResumeFineTune of the contract.
  absl::StatusOr<v1::FineTuneJob> Cancel(const std::string& job_id)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<v1::FineTuneJob> Resume(const std::string& job_id)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Stops the trainers, which write checkpoints, and waits for their end. The
  // jobs stay as they are, for the next scheduler. Idempotent.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // Why a trainer is being stopped.
  enum class Stop { kNone, kCancelled, kTimedOut, kShutdown };

  struct Running {
    std::stop_source source;
    Stop reason = Stop::kNone;
  };

  void Recover() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Enqueue(const std::string& job_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void NumberQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StopJob(const std::string& job_id, Stop reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void Work() ABSL_LOCKS_EXCLUDED(mu_);
  void Run(const std::string& job_id, const std::stop_token& stop);
  void EnforceDuration(const v1::FineTuneJob& job, const std::stop_token& done)
      ABSL_LOCKS_EXCLUDED(mu_);
  void End(const std::string& job_id, const absl::Status& status)
      ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  JobStore& store_;
  JobRunner& runner_;

  Mutex mu_;  // Taken before the store's.
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  size_t validating_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<std::string> waiting_ ABSL_GUARDED_BY(mu_);  // Ids.
  std::map<std::string, Running> running_ ABSL_GUARDED_BY(mu_);

  std::vector<std::jthread> workers_;
};

}  // namespace finetune

#endif  // SERVER_JOBS_SCHEDULER_H_
