#include "server/jobs/job_changes.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/rpc_status.h"
#include "google/protobuf/util/time_util.h"
#include "server/jobs/job_store.h"

namespace finetune {
namespace {

using google::protobuf::util::TimeUtil;

constexpr int kMaxEvents = 100;

void End(v1::JobState state, v1::FineTuneJob& job) {
  job.set_state(state);
  job.set_queue_position(0);
  *job.mutable_end_time() = TimeUtil::GetCurrentTime();
}

bool IsCancelling(const v1::FineTuneJob& job) {
  return job.state() == v1::JOB_STATE_CANCELLING;
}

void SetProgress(const v1::Progress& progress, v1::FineTuneJob& job) {
  // A trainer that goes on from a checkpoint repeats a few steps.
  const double done =
      std::max(job.progress().fraction_done(), progress.fraction_done());
  *job.mutable_progress() = progress;
  job.mutable_progress()->set_fraction_done(done);
}

}  // namespace

std::string NewJobId() {
  return absl::StrCat(
      "ft-",
      absl::FormatTime("%Y%m%d-%H%M%E3S", absl::Now(), absl::UTCTimeZone()),
      absl::StrFormat("-%04x", std::random_device()() & 0xffff));
}

void AddEvent(absl::string_view message, v1::FineTuneJob& job) {
  v1::JobEvent& event = *job.add_events();
  *event.mutable_time() = TimeUtil::GetCurrentTime();
  event.set_message(std::string(message));
  if (job.events_size() > kMaxEvents) {
    job.mutable_events()->DeleteSubrange(0, job.events_size() - kMaxEvents);
  }
}

absl::Status Begin(v1::FineTuneJob& job) {
  if (IsCancelling(job) || IsTerminal(job.state())) {
    return absl::AbortedError("it has ended or is being cancelled");
  }
  job.set_state(v1::JOB_STATE_VALIDATING);
  job.set_queue_position(0);
  if (!job.has_start_time()) {
    *job.mutable_start_time() = TimeUtil::GetCurrentTime();
  }
  return absl::OkStatus();
}

void Apply(const trainer::TrainerEvent& event, v1::FineTuneJob& job) {
  if (event.has_dataset_stats()) {
    *job.mutable_dataset_stats() = event.dataset_stats();
    if (!IsCancelling(job)) job.set_state(v1::JOB_STATE_RUNNING);
  } else if (event.has_progress()) {
    SetProgress(event.progress(), job);
  } else if (!event.resumed().empty()) {
    AddEvent(absl::StrCat("training goes on from ", event.resumed()), job);
  }
}

bool IsMilestone(const trainer::TrainerEvent& event,
                 const v1::FineTuneJob& job) {
  if (!event.has_progress()) return true;
  return event.progress().epochs_size() != job.progress().epochs_size() ||
         event.progress().warnings_size() != job.progress().warnings_size();
}

void AskToCancel(v1::FineTuneJob& job) {
  if (IsTerminal(job.state()) || IsCancelling(job)) return;
  if (job.state() == v1::JOB_STATE_QUEUED) return BecomeCancelled(job);
  job.set_state(v1::JOB_STATE_CANCELLING);
}

absl::Status Succeed(const v1::ModelRef& model, v1::FineTuneJob& job) {
  if (IsCancelling(job)) return absl::AbortedError("it is being cancelled");
  End(v1::JOB_STATE_SUCCEEDED, job);
  *job.mutable_model() = model;
  return absl::OkStatus();
}

void Fail(const absl::Status& error, v1::FineTuneJob& job) {
  End(v1::JOB_STATE_FAILED, job);
  *job.mutable_error() = ToRpcStatus(error);
}

void BecomeCancelled(v1::FineTuneJob& job) {
  End(v1::JOB_STATE_CANCELLED, job);
}

absl::Status Requeue(v1::FineTuneJob& job) {
  if (!IsTerminal(job.state())) {
    return absl::AbortedError(absl::StrCat(
        "job ", job.job_id(), " has not ended: nothing to resume"));
  }
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    return PreconditionError(
        "JOB", job.job_id(),
        absl::StrCat("job ", job.job_id(),
                     " has succeeded: start a new one to train further"));
  }
  job.set_state(v1::JOB_STATE_QUEUED);
  job.clear_start_time();
  job.clear_end_time();
  job.clear_error();
  job.set_trainer_restarts(0);
  AddEvent("resumed", job);
  return absl::OkStatus();
}

}  // namespace finetune
