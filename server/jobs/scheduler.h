// Runs jobs one at a time, in the order in which they were accepted: one
// device, and two trainings at once would only slow each other.

#ifndef SERVER_JOBS_SCHEDULER_H_
#define SERVER_JOBS_SCHEDULER_H_

#include <deque>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "finetune/trainer/trainer.pb.h"
#include "finetune/v1/training_service.pb.h"
#include "server/jobs/job_store.h"

namespace finetune {

// Trains one model in `job_dir`; see RunTrainer in trainer_process.h.
using EventFn = std::function<void(const trainer::TrainerEvent&)>;
using TrainFn = std::function<absl::Status(
    const std::filesystem::path& job_dir, const trainer::TrainerSpec& spec,
    const EventFn& on_event, std::stop_token stop)>;

// Makes the model in `model_dir` the served one under the job's model name.
using PublishFn = std::function<absl::StatusOr<v1::ModelRef>(
    const v1::FineTuneJob& job, const std::filesystem::path& model_dir)>;

// What the service has checked and resolved.
struct JobRequest {
  std::string dataset;  // As it was asked for.
  std::filesystem::path dataset_dir;
  std::string model_name;
  v1::HyperParameters hyper_parameters;  // All present.
};

// Thread-safe.
class Scheduler {
 public:
  struct Options {
    size_t max_waiting = 16;         // Accepted and not yet started, >= 1.
    std::filesystem::path jobs_dir;  // Holds a folder for each job.
    trainer::TrainerSpec trainer;    // What all jobs have in common.
  };

  // `store` must outlive this. `train` and `publish` run on the scheduler's
  // thread, never twice at once.
  Scheduler(Options options, JobStore& store, TrainFn train, PublishFn publish);

  // As Shutdown.
  ~Scheduler();

  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Returns the job as it was queued. RESOURCE_EXHAUSTED with RetryInfo if
  // `max_waiting` jobs wait; UNAVAILABLE with RetryInfo after Shutdown.
  absl::StatusOr<v1::FineTuneJob> Submit(JobRequest request)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Stops the running job, waits for its end, and fails those waiting as
  // UNAVAILABLE. Idempotent.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    std::string job_id;
    JobRequest request;
  };

  void Work(const std::stop_token& stop) ABSL_LOCKS_EXCLUDED(mu_);
  void Run(const Waiting& job, const std::stop_token& stop);
  absl::StatusOr<v1::ModelRef> TrainAndPublish(const Waiting& job,
                                               const std::stop_token& stop);
  void Fail(const std::string& job_id, const absl::Status& error);
  void NumberQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  JobStore& store_;
  const TrainFn train_;
  const PublishFn publish_;

  Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);

  std::jthread worker_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_JOBS_SCHEDULER_H_
