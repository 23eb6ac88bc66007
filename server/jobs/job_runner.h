// One job's run: its trainer, started again when it dies, and the publication
// of what it trained.

#ifndef SERVER_JOBS_JOB_RUNNER_H_
#define SERVER_JOBS_JOB_RUNNER_H_

#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "finetune/trainer/trainer.pb.h"
#include "finetune/v1/training_service.pb.h"
#include "server/jobs/job_store.h"

namespace finetune {

// Trains one model in `job_dir`, going on from its checkpoints. ABORTED if the
// trainer died, which is worth another try, and UNAVAILABLE if it could not be
// started for now; see RunTrainer in trainer_process.h.
using EventFn = std::function<void(const trainer::TrainerEvent&)>;
using TrainFn = std::function<absl::Status(
    const std::filesystem::path& job_dir, const trainer::TrainerSpec& spec,
    const EventFn& on_event, std::stop_token stop)>;

// A model that can be served, but is not yet known to anyone.
struct Publication {
  v1::ModelRef model;
  JobStore::Joint joint;          // Makes it known, with the job's success.
  std::function<void()> discard;  // Instead: leaves nothing of it.
};

// Prepares the model in `model_dir` to be published as the job asks.
using PublishFn = std::function<absl::StatusOr<Publication>(
    const v1::FineTuneJob& job, const std::filesystem::path& model_dir)>;

// What the service has checked and resolved.
struct JobRequest {
  v1::FineTuneJob job;  // What the caller chose, all defaults resolved.
  JobOrigin origin;
};

// Thread-safe, for different jobs.
class JobRunner {
 public:
  // `store` must outlive this. `jobs_dir` holds a folder for each job;
  // `defaults` is what all trainers are told.
  JobRunner(std::filesystem::path jobs_dir, trainer::TrainerSpec defaults,
            JobStore& store, TrainFn train, PublishFn publish);

  // Trains and publishes. OK: the job is SUCCEEDED, on disk. Else why not; the
  // job's state is then for the caller to set. Soon after a stop request
  // CANCELLED, and a checkpoint lies there to go on from.
  //
  // A trainer that dies is started again from its last checkpoint, three times
  // in all; then INTERNAL with the reason. One that cannot be started, for want
  // of descriptors, processes or memory, is tried again until it can.
  absl::Status Run(const v1::FineTuneJob& job, const std::stop_token& stop);

  // Scans the data set and returns the job with what was found; leaves nothing
  // on disk.
  absl::StatusOr<v1::FineTuneJob> Validate(const JobRequest& request,
                                           const std::stop_token& stop);

  // Whether the job could go on from where it was.
  bool HasCheckpoint(const std::string& job_id) const;

  // Removes the job's folder.
  void Forget(const std::string& job_id);

  // Moves the folders of jobs that the store does not know to lost+found.
  // Those that validations left are removed.
  void SetAsideUnknown();

 private:
  absl::Status Train(const v1::FineTuneJob& job, const std::stop_token& stop);
  // Waits while no trainer can be started, which is no fault of the job's.
  absl::Status TrainWhenPossible(const v1::FineTuneJob& job,
                                 const std::stop_token& stop);
  absl::Status TrainOnce(const v1::FineTuneJob& job,
                         const std::stop_token& stop);
  void KeepNewestCheckpoint(const std::string& job_id) const;
  void Take(const std::string& job_id, const trainer::TrainerEvent& event);
  absl::Status Publish(const std::string& job_id);
  trainer::TrainerSpec SpecOf(const v1::FineTuneJob& job,
                              const std::filesystem::path& dataset_dir,
                              const std::filesystem::path& job_dir) const;

  const std::filesystem::path jobs_dir_;
  const trainer::TrainerSpec defaults_;
  JobStore& store_;
  const TrainFn train_;
  const PublishFn publish_;
};

}  // namespace finetune

#endif  // SERVER_JOBS_JOB_RUNNER_H_
