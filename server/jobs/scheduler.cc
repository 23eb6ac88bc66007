#include "server/jobs/scheduler.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/jobs/job_changes.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

constexpr size_t kMaxValidating = 2;

void Warn(const absl::Status& status) {
  if (!status.ok()) spdlog::warn("{}", status.ToString());
}

// For changes that are never refused.
template <typename Change>
JobStore::ChangeFn Always(Change change) {
  return [change = std::move(change)](v1::FineTuneJob& job) {
    change(job);
    return absl::OkStatus();
  };
}

}  // namespace

Scheduler::Scheduler(const Options& options, JobStore& store, JobRunner& runner)
    : options_(options), store_(store), runner_(runner) {
  Recover();
}

void Scheduler::Start() {
  for (size_t i = 0; i < options_.max_running; ++i) {
    workers_.emplace_back([this] { Work(); });
  }
}

Scheduler::~Scheduler() { Shutdown(); }

void Scheduler::Recover() {
  const absl::StatusOr<std::vector<std::string>> unfinished =
      store_.Unfinished();
  if (!unfinished.ok()) return Warn(unfinished.status());
  const MutexLock lock(mu_);
  for (const std::string& job_id : *unfinished) {
    const absl::StatusOr<v1::FineTuneJob> job = store_.Get(job_id);
    if (!job.ok()) {
      Warn(job.status());
    } else if (job->state() == v1::JOB_STATE_CANCELLING) {
      Warn(store_.Record(job_id, Always(BecomeCancelled)));
    } else {
      waiting_.push_back(job_id);
      if (job->state() == v1::JOB_STATE_QUEUED) continue;
      Warn(store_.Record(job_id, Always([](v1::FineTuneJob& record) {
                           AddEvent("the server was started again", record);
                         })));
    }
  }
  NumberQueue();
  runner_.SetAsideUnknown();
}

absl::Status Scheduler::CheckRoom() const {
  if (closing_) {
    return ShuttingDownError();
  }
  if (waiting_.size() >= options_.max_waiting) {
    return RetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                          waiting_.size(), " jobs are waiting already")),
                      absl::Minutes(1));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::FineTuneJob> Scheduler::Submit(JobRequest request) {
  const MutexLock lock(mu_);
  if (!request.origin.request_id.empty()) {
    absl::StatusOr<v1::FineTuneJob> known = store_.FindRequest(request.origin);
    if (!absl::IsNotFound(known.status())) return known;
  }
  RETURN_IF_ERROR(CheckRoom());
  v1::FineTuneJob& job = request.job;
  job.set_job_id(NewJobId());
  job.set_state(v1::JOB_STATE_QUEUED);
  *job.mutable_create_time() = ToProto(absl::Now());
  job.set_queue_position(static_cast<int>(waiting_.size()) + 1);
  ASSIGN_OR_RETURN(v1::FineTuneJob added,
                   store_.Add(std::move(job), request.origin));
  waiting_.push_back(added.job_id());
  const auto forgotten = store_.Trim(options_.max_jobs);
  if (!forgotten.ok()) Warn(forgotten.status());
  if (forgotten.ok()) {
    for (const std::string& job_id : *forgotten) runner_.Forget(job_id);
  }
  return added;
}

absl::StatusOr<v1::FineTuneJob> Scheduler::Validate(
    const JobRequest& request, const std::stop_token& stop) {
  {
    const MutexLock lock(mu_);
    if (closing_) return CheckRoom();
    if (validating_ >= kMaxValidating) {
      return RetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            validating_, " data sets are being validated")),
                        absl::Seconds(10));
    }
    ++validating_;
  }
  const absl::Cleanup count = [&] {
    const MutexLock lock(mu_);
    --validating_;
  };
  return runner_.Validate(request, stop);
}

absl::StatusOr<v1::FineTuneJob> Scheduler::Cancel(const std::string& job_id) {
  const MutexLock lock(mu_);
  ASSIGN_OR_RETURN(v1::FineTuneJob job, store_.Get(job_id));
  if (IsTerminal(job.state()) || job.state() == v1::JOB_STATE_CANCELLING) {
    return job;
  }
  const bool runs = running_.contains(job_id);
  RETURN_IF_ERROR(
      store_.Commit(job_id, Always(runs ? &AskToCancel : &BecomeCancelled)));
  if (runs) {
    StopJob(job_id, Stop::kCancelled);
  } else {
    std::erase(waiting_, job_id);
    NumberQueue();
  }
  return store_.Get(job_id);
}

absl::StatusOr<v1::FineTuneJob> Scheduler::Resume(const std::string& job_id) {
  const MutexLock lock(mu_);
  const absl::Status room = CheckRoom();
  const int position = static_cast<int>(waiting_.size()) + 1;
  RETURN_IF_ERROR(
      store_.Commit(job_id, [&](v1::FineTuneJob& job) -> absl::Status {
        RETURN_IF_ERROR(Requeue(job));
        if (!runner_.HasCheckpoint(job_id)) {
          return PreconditionError(
              "CHECKPOINT", job_id,
              absl::StrCat("job ", job_id,
                           " left no checkpoint to go on from: start a new "
                           "one"));
        }
        RETURN_IF_ERROR(room);
        job.set_queue_position(position);
        return absl::OkStatus();
      }));
  waiting_.push_back(job_id);
  return store_.Get(job_id);
}

void Scheduler::Shutdown() {
  {
    const MutexLock lock(mu_);
    closing_ = true;
    for (const auto& [job_id, running] : running_) {
      StopJob(job_id, Stop::kShutdown);
    }
  }
  workers_.clear();  // Joins.
}

void Scheduler::StopJob(const std::string& job_id, Stop reason) {
  Running& running = running_[job_id];
  if (running.reason == Stop::kNone) running.reason = reason;
  running.source.request_stop();
}

void Scheduler::NumberQueue() {
  for (size_t i = 0; i < waiting_.size(); ++i) {
    Warn(store_.Report(waiting_[i], Always([i](v1::FineTuneJob& job) {
                         job.set_queue_position(static_cast<int>(i) + 1);
                       })));
  }
}

void Scheduler::Work() {
  while (true) {
    std::string job_id;
    std::stop_token stop;
    absl::Status begun;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !waiting_.empty();
      });
      if (closing_) return;
      job_id = std::move(waiting_.front());
      waiting_.pop_front();
      stop = running_[job_id].source.get_token();
      begun = store_.Record(job_id, Begin);
      if (!begun.ok()) running_.erase(job_id);
      NumberQueue();
    }
    Warn(begun);
    if (begun.ok()) Run(job_id, stop);
  }
}

void Scheduler::Run(const std::string& job_id, const std::stop_token& stop) {
  const absl::StatusOr<v1::FineTuneJob> job = store_.Get(job_id);
  absl::Status status = job.status();
  if (job.ok()) {
    spdlog::info("job {} starts on {}", job_id, job->dataset());
    std::jthread timer;
    if (job->has_max_run_duration()) {
      timer = std::jthread(
          [&](const std::stop_token& done) { EnforceDuration(*job, done); });
    }
    status = runner_.Run(*job, stop);
  }
  End(job_id, status);
}

void Scheduler::EnforceDuration(const v1::FineTuneJob& job,
                                const std::stop_token& done) {
  const absl::Time end =
      FromProto(job.start_time()) + FromProto(job.max_run_duration());
  const std::stop_callback wake(done, [this] { const MutexLock lock(mu_); });
  const MutexLock lock(mu_);
  const bool ended = mu_.AwaitFor(end - absl::Now(),
                                  [&done] { return done.stop_requested(); });
  if (!ended) StopJob(job.job_id(), Stop::kTimedOut);
}

// Under one lock, so that nobody resumes the job while it still counts as
// running.
void Scheduler::End(const std::string& job_id, const absl::Status& status) {
  const MutexLock lock(mu_);
  const Stop reason = running_[job_id].reason;
  running_.erase(job_id);
  if (status.ok()) return spdlog::info("job {} succeeded", job_id);
  if (reason == Stop::kShutdown) return spdlog::info("job {} waits", job_id);
  if (reason == Stop::kCancelled) {
    spdlog::info("job {} is cancelled", job_id);
    return Warn(store_.Record(job_id, Always(BecomeCancelled)));
  }
  const absl::Status error =
      reason == Stop::kTimedOut
          ? absl::DeadlineExceededError(
                "the job ran for its max_run_duration; resume it to go on")
          : status;
  spdlog::warn("job {} failed: {}", job_id, error.ToString());
  Warn(store_.Record(
      job_id, Always([&error](v1::FineTuneJob& job) { Fail(error, job); })));
}

}  // namespace finetune
