#include "server/jobs/scheduler.h"

#include <exception>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/util/time_util.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

using google::protobuf::util::TimeUtil;

// Sorts by time of creation, and does not come twice on one state folder.
std::string NewJobId() {
  return absl::StrCat(
      "ft-",
      absl::FormatTime("%Y%m%d-%H%M%E3S", absl::Now(), absl::UTCTimeZone()),
      absl::StrFormat("-%04x", std::random_device()() & 0xffff));
}

void Apply(const trainer::TrainerEvent& event, v1::FineTuneJob& job) {
  if (event.has_dataset_stats()) {
    *job.mutable_dataset_stats() = event.dataset_stats();
    job.set_state(v1::JOB_STATE_RUNNING);
  } else if (event.has_progress()) {
    *job.mutable_progress() = event.progress();
  }
}

}  // namespace

Scheduler::Scheduler(Options options, JobStore& store, TrainFn train,
                     PublishFn publish)
    : options_(std::move(options)),
      store_(store),
      train_(std::move(train)),
      publish_(std::move(publish)),
      worker_([this](const std::stop_token& stop) { Work(stop); }) {}

Scheduler::~Scheduler() { Shutdown(); }

absl::StatusOr<v1::FineTuneJob> Scheduler::Submit(JobRequest request) {
  v1::FineTuneJob job;
  job.set_job_id(NewJobId());
  job.set_state(v1::JOB_STATE_QUEUED);
  *job.mutable_create_time() = TimeUtil::GetCurrentTime();
  job.set_dataset(request.dataset);
  job.set_model_name(request.model_name);
  *job.mutable_hyper_parameters() = request.hyper_parameters;

  const MutexLock lock(mu_);
  if (closing_) {
    return RetryAfter(absl::UnavailableError("the server is shutting down"),
                      absl::Seconds(10));
  }
  if (waiting_.size() >= options_.max_waiting) {
    return RetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                          waiting_.size(), " jobs are waiting already")),
                      absl::Minutes(1));
  }
  job.set_queue_position(static_cast<int>(waiting_.size()) + 1);
  store_.Add(job);
  waiting_.push_back({job.job_id(), std::move(request)});
  return job;
}

void Scheduler::Shutdown() {
  {
    const MutexLock lock(mu_);
    closing_ = true;
    worker_.request_stop();
  }
  if (worker_.joinable()) worker_.join();
  const MutexLock lock(mu_);
  for (const Waiting& job : waiting_) {
    Fail(job.job_id, absl::UnavailableError("the server was shut down"));
  }
  waiting_.clear();
}

void Scheduler::Work(const std::stop_token& stop) {
  while (true) {
    Waiting job;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !waiting_.empty();
      });
      if (closing_) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
      NumberQueue();
    }
    Run(job, stop);
  }
}

void Scheduler::Run(const Waiting& job, const std::stop_token& stop) {
  store_.Update(job.job_id, [](v1::FineTuneJob& record) {
    record.set_state(v1::JOB_STATE_VALIDATING);
    record.set_queue_position(0);
    *record.mutable_start_time() = TimeUtil::GetCurrentTime();
  });
  spdlog::info("job {} starts on {}", job.job_id,
               job.request.dataset_dir.native());
  const absl::StatusOr<v1::ModelRef> model = TrainAndPublish(job, stop);
  if (!model.ok()) return Fail(job.job_id, model.status());
  spdlog::info("job {} succeeded: {}@{}", job.job_id, model->name(),
               model->version());
  store_.Update(job.job_id, [&](v1::FineTuneJob& record) {
    record.set_state(v1::JOB_STATE_SUCCEEDED);
    *record.mutable_end_time() = TimeUtil::GetCurrentTime();
    *record.mutable_model() = *model;
  });
}

absl::StatusOr<v1::ModelRef> Scheduler::TrainAndPublish(
    const Waiting& job, const std::stop_token& stop) try {
  const std::filesystem::path job_dir = options_.jobs_dir / job.job_id;
  RETURN_IF_ERROR(MakeFolders(job_dir));
  trainer::TrainerSpec spec = options_.trainer;
  *spec.mutable_hyper_parameters() = job.request.hyper_parameters;
  spec.set_dataset_dir(job.request.dataset_dir.string());
  spec.set_model_dir((job_dir / "model").string());
  spec.set_job_id(job.job_id);
  RETURN_IF_ERROR(train_(
      job_dir, spec,
      [&](const trainer::TrainerEvent& event) {
        store_.Update(job.job_id,
                      [&](v1::FineTuneJob& record) { Apply(event, record); });
      },
      stop));
  ASSIGN_OR_RETURN(const v1::FineTuneJob record, store_.Get(job.job_id));
  return publish_(record, spec.model_dir());
} catch (const std::exception& e) {
  return absl::InternalError(e.what());
}

void Scheduler::Fail(const std::string& job_id, const absl::Status& error) {
  spdlog::warn("job {} failed: {}", job_id, error.ToString());
  store_.Update(job_id, [&](v1::FineTuneJob& record) {
    record.set_state(v1::JOB_STATE_FAILED);
    record.set_queue_position(0);
    *record.mutable_end_time() = TimeUtil::GetCurrentTime();
    *record.mutable_error() = ToRpcStatus(error);
  });
}

void Scheduler::NumberQueue() {
  for (size_t i = 0; i < waiting_.size(); ++i) {
    store_.Update(waiting_[i].job_id, [i](v1::FineTuneJob& record) {
      record.set_queue_position(static_cast<int>(i) + 1);
    });
  }
}

}  // namespace finetune
