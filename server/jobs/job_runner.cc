#include "server/jobs/job_runner.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "server/jobs/job_changes.h"
#include "server/state/set_aside.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxRestarts = 3;
// Between two tries to start a trainer; doubled each time.
constexpr absl::Duration kFirstDelay = absl::Milliseconds(100);
constexpr absl::Duration kLongestDelay = absl::Seconds(10);
constexpr char kCheckpointsDir[] = "checkpoints";
constexpr char kDamaged[] = ".damaged";  // As Checkpoints has it.
constexpr char kValidationPrefix[] = "validate-";

// False if a stop was requested meanwhile.
bool Sleep(absl::Duration duration, const std::stop_token& stop) {
  std::mutex mu;
  std::unique_lock lock(mu);
  std::condition_variable_any never;
  never.wait_for(lock, stop, absl::ToChronoMicroseconds(duration),
                 [] { return false; });
  return !stop.stop_requested();
}

void Warn(const absl::Status& status) {
  if (!status.ok()) spdlog::warn("{}", status.ToString());
}

}  // namespace

JobRunner::JobRunner(fs::path jobs_dir, trainer::TrainerSpec defaults,
                     JobStore& store, TrainFn train, PublishFn publish)
    : jobs_dir_(std::move(jobs_dir)),
      defaults_(std::move(defaults)),
      store_(store),
      train_(std::move(train)),
      publish_(std::move(publish)) {}

absl::Status JobRunner::Run(const v1::FineTuneJob& job,
                            const std::stop_token& stop) try {
  RETURN_IF_ERROR(Train(job, stop));
  return Publish(job.job_id());
} catch (const std::exception& e) {
  return absl::InternalError(e.what());
}

absl::Status JobRunner::Train(const v1::FineTuneJob& job,
                              const std::stop_token& stop) {
  for (int restarts = job.trainer_restarts();; ++restarts) {
    const absl::Status status = TrainWhenPossible(job, stop);
    if (!absl::IsAborted(status) || stop.stop_requested()) return status;
    if (restarts >= kMaxRestarts) {
      return absl::InternalError(absl::StrCat(status.message(),
                                              "; it had been started again ",
                                              restarts, " times"));
    }
    Warn(status);
    Warn(store_.Record(job.job_id(), [&](v1::FineTuneJob& record) {
      record.set_trainer_restarts(restarts + 1);
      AddEvent(absl::StrCat(status.message(), "; started again (", restarts + 1,
                            " of ", kMaxRestarts, ")"),
               record);
      return absl::OkStatus();
    }));
  }
}

absl::Status JobRunner::TrainWhenPossible(const v1::FineTuneJob& job,
                                          const std::stop_token& stop) {
  absl::Duration delay = kFirstDelay;
  for (bool is_first = true;; is_first = false) {
    const absl::Status status = TrainOnce(job, stop);
    if (!absl::IsUnavailable(status)) return status;
    if (is_first) {
      Warn(status);
      Warn(store_.Record(job.job_id(), [&](v1::FineTuneJob& record) {
        AddEvent(absl::StrCat(status.message(), "; tried again until it can"),
                 record);
        return absl::OkStatus();
      }));
    }
    if (!Sleep(delay, stop)) {
      return absl::CancelledError("stopped before a trainer could be started");
    }
    delay = std::min(2 * delay, kLongestDelay);
  }
}

absl::Status JobRunner::TrainOnce(const v1::FineTuneJob& job,
                                  const std::stop_token& stop) {
  const fs::path job_dir = jobs_dir_ / job.job_id();
  ASSIGN_OR_RETURN(const fs::path dataset_dir,
                   store_.DatasetDirOf(job.job_id()));
  RETURN_IF_ERROR(MakeFolders(job_dir));
  return train_(
      job_dir, SpecOf(job, dataset_dir, job_dir),
      [&](const trainer::TrainerEvent& event) { Take(job.job_id(), event); },
      stop);
}

void JobRunner::Take(const std::string& job_id,
                     const trainer::TrainerEvent& event) {
  const auto apply = [&event](v1::FineTuneJob& record) {
    Apply(event, record);
    return absl::OkStatus();
  };
  const absl::StatusOr<v1::FineTuneJob> before = store_.Get(job_id);
  Warn(before.ok() && !IsMilestone(event, *before)
           ? store_.Report(job_id, apply)
           : store_.Record(job_id, apply));
}

// The model and the job's success: both or neither.
absl::Status JobRunner::Publish(const std::string& job_id) {
  ASSIGN_OR_RETURN(const v1::FineTuneJob job, store_.Get(job_id));
  ASSIGN_OR_RETURN(const Publication publication,
                   publish_(job, jobs_dir_ / job_id / "model"));
  KeepNewestCheckpoint(job_id);  // Before: a crash then leaves nothing behind.
  absl::Status status = store_.Commit(
      job_id,
      [&](v1::FineTuneJob& record) {
        return Succeed(publication.model, record);
      },
      publication.joint);
  if (!status.ok()) publication.discard();
  return status;
}

// 45 MB and more each; the one before is of no more use.
void JobRunner::KeepNewestCheckpoint(const std::string& job_id) const {
  std::vector<fs::path> checkpoints;
  std::error_code ignored;
  for (const auto& entry :
       fs::directory_iterator(jobs_dir_ / job_id / kCheckpointsDir, ignored)) {
    checkpoints.push_back(entry.path());
  }
  // Named by position, the damaged ones first.
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const fs::path& a, const fs::path& b) {
              return std::pair(a.extension() != kDamaged, a) <
                     std::pair(b.extension() != kDamaged, b);
            });
  if (!checkpoints.empty()) checkpoints.pop_back();
  for (const fs::path& old : checkpoints) fs::remove_all(old, ignored);
}

absl::StatusOr<v1::FineTuneJob> JobRunner::Validate(
    const JobRequest& request, const std::stop_token& stop) {
  const std::string folder = absl::StrCat(kValidationPrefix, NewJobId());
  const absl::Cleanup clean_up = [&] { Forget(folder); };
  const fs::path dir = jobs_dir_ / folder;
  RETURN_IF_ERROR(MakeFolders(dir));
  v1::FineTuneJob job = request.job;
  trainer::TrainerSpec spec = SpecOf(job, request.origin.dataset_dir, dir);
  spec.set_validate_only(true);
  RETURN_IF_ERROR(train_(
      dir, spec,
      [&job](const trainer::TrainerEvent& event) {
        if (event.has_dataset_stats()) {
          *job.mutable_dataset_stats() = event.dataset_stats();
        }
      },
      stop));
  return job;
}

bool JobRunner::HasCheckpoint(const std::string& job_id) const {
  std::error_code ignored;
  for (const auto& entry :
       fs::directory_iterator(jobs_dir_ / job_id / kCheckpointsDir, ignored)) {
    const fs::path kind = entry.path().extension();
    if (kind != ".tmp" && kind != kDamaged) return true;
  }
  return false;
}

void JobRunner::Forget(const std::string& job_id) {
  std::error_code error;
  fs::remove_all(jobs_dir_ / job_id, error);
  if (error) spdlog::warn("remove job {}: {}", job_id, error.message());
}

void JobRunner::SetAsideUnknown() {
  std::vector<std::string> unknown;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(jobs_dir_, ignored)) {
    const std::string name = entry.path().filename();
    if (absl::IsNotFound(store_.Get(name).status())) unknown.push_back(name);
  }
  for (const std::string& name : unknown) {
    if (absl::StartsWith(name, kValidationPrefix)) {
      Forget(name);
      continue;
    }
    const absl::Status moved =
        SetAside(jobs_dir_ / name, jobs_dir_.parent_path(),
                 "the database knows no such job");
    if (!moved.ok()) spdlog::error("set aside: {}", moved.ToString());
  }
}

trainer::TrainerSpec JobRunner::SpecOf(const v1::FineTuneJob& job,
                                       const fs::path& dataset_dir,
                                       const fs::path& job_dir) const {
  trainer::TrainerSpec spec = defaults_;
  *spec.mutable_hyper_parameters() = job.hyper_parameters();
  spec.set_dataset_dir(dataset_dir);
  spec.set_model_dir(job_dir / "model");
  spec.set_checkpoint_dir(job_dir / kCheckpointsDir);
  spec.set_job_id(job.job_id());
  return spec;
}

}  // namespace finetune
