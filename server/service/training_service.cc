#include "server/service/training_service.h"

#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_training.h"
#include "server/service/unary.h"

namespace finetune {
namespace {

// For the calls that are answered with a job.
template <typename Response>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 absl::StatusOr<v1::FineTuneJob> job,
                                 Response* response) {
  if (job.ok()) *response->mutable_job() = *std::move(job);
  return Finish(context, job.status());
}

// One call with validate_only: the scan takes seconds, and so a thread of its
// own. Deletes itself when the call is over, which is after the scan.
class Validation final : public grpc::ServerUnaryReactor {
 public:
  Validation(Scheduler& scheduler, JobRequest request,
             v1::StartFineTuneResponse* response) {
    // Detached, since it may be the one that deletes this.
    std::thread([this, &scheduler, request = std::move(request), response] {
      absl::StatusOr<v1::FineTuneJob> job =
          scheduler.Validate(request, stop_.get_token());
      if (job.ok()) *response->mutable_job() = *std::move(job);
      Finish(ToGrpcStatus(job.status()));
    }).detach();
  }

  void OnCancel() override { stop_.request_stop(); }
  void OnDone() override { delete this; }

 private:
  std::stop_source stop_;
};

// One watcher. However slow its reader, it holds two snapshots: the one being
// written and the newest after it. Deletes itself when the call is over.
class Watcher final
    : public grpc::ServerWriteReactor<v1::WatchProgressResponse> {
 public:
  Watcher(JobStore& store, const v1::WatchProgressRequest& request)
      : store_(store),
        job_id_(request.job_id()),
        after_sequence_(request.after_sequence()) {
    const absl::StatusOr<uint64_t> watch = store_.Watch(
        job_id_, after_sequence_,
        [this](const JobStore::Snapshot& latest) { Offer(latest); });
    if (watch.ok()) {
      watch_id_ = *watch;
    } else {
      const MutexLock lock(mu_);
      FinishOnce(ToGrpcStatus(watch.status()));
    }
  }

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    if (!ok) return FinishOnce(grpc::Status::CANCELLED);
    if (IsTerminal(writing_->job().state())) {
      return FinishOnce(grpc::Status::OK);
    }
    writing_ = std::exchange(next_, nullptr);
    if (writing_ != nullptr) StartWrite(writing_.get());
  }

  void OnCancel() override ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    FinishOnce(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    store_.Unwatch(job_id_, watch_id_);
    delete this;
  }

 private:
  void Offer(const JobStore::Snapshot& latest) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    if (finished_) return;
    if (latest == nullptr) {
      return FinishOnce(ToGrpcStatus(ShuttingDownError()));
    }
    if (latest->sequence() <= after_sequence_) {
      // It had the job's end, or is ahead of us.
      if (IsTerminal(latest->job().state())) FinishOnce(grpc::Status::OK);
      return;
    }
    if (writing_ != nullptr) {
      next_ = latest;
      return;
    }
    writing_ = latest;
    StartWrite(writing_.get());
  }

  void FinishOnce(const grpc::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  JobStore& store_;
  const std::string job_id_;
  const uint64_t after_sequence_;
  uint64_t watch_id_ = 0;
  Mutex mu_;  // Taken with the store's held, never the other way round.
  JobStore::Snapshot writing_ ABSL_GUARDED_BY(mu_);  // Null: no write goes on.
  JobStore::Snapshot next_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

TrainingService::TrainingService(Options options, JobStore& store,
                                 Scheduler& scheduler,
                                 const Authorizer& authorizer)
    : options_(std::move(options)),
      store_(store),
      scheduler_(scheduler),
      authorizer_(authorizer) {}

grpc::ServerUnaryReactor* TrainingService::StartFineTune(
    grpc::CallbackServerContext* context,
    const v1::StartFineTuneRequest* request,
    v1::StartFineTuneResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  if (!request->validate_only()) {
    return Answer(context, Start(*request), response);
  }
  absl::StatusOr<JobRequest> job = Check(*request);
  if (!job.ok()) return Finish(context, job.status());
  return new Validation(scheduler_, *std::move(job), response);
}

absl::StatusOr<v1::FineTuneJob> TrainingService::Start(
    const v1::StartFineTuneRequest& request) {
  // A repeated request gets its job whatever became of its data set since.
  ASSIGN_OR_RETURN(const JobOrigin origin, ToOrigin(request));
  if (!origin.request_id.empty()) {
    absl::StatusOr<v1::FineTuneJob> known = store_.FindRequest(origin);
    if (!absl::IsNotFound(known.status())) return known;
  }
  ASSIGN_OR_RETURN(JobRequest job, Check(request));
  RETURN_IF_ERROR(options_.check_state_room());
  return scheduler_.Submit(std::move(job));
}

absl::StatusOr<JobRequest> TrainingService::Check(
    const v1::StartFineTuneRequest& request) const {
  ASSIGN_OR_RETURN(JobRequest job, ToJobRequest(request, options_.data_root,
                                                options_.find_upload));
  std::error_code ignored;
  if (!job.job.hyper_parameters().from_scratch() &&
      !std::filesystem::is_regular_file(options_.pretrained, ignored)) {
    return PreconditionError(
        "WEIGHTS", options_.pretrained.native(),
        absl::StrCat(
            "this server has no pretrained weights at ",
            options_.pretrained.native(),
            ": give it --pretrained FILE, run scripts/fetch_weights.sh "
            "there, or train from_scratch"));
  }
  return job;
}

grpc::ServerUnaryReactor* TrainingService::GetProgress(
    grpc::CallbackServerContext* context, const v1::GetProgressRequest* request,
    v1::GetProgressResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  return Answer(context, store_.Get(request->job_id()), response);
}

grpc::ServerUnaryReactor* TrainingService::ListFineTunes(
    grpc::CallbackServerContext* context,
    const v1::ListFineTunesRequest* request,
    v1::ListFineTunesResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  const absl::StatusOr<ListQuery> query = ToListQuery(*request);
  if (!query.ok()) return Finish(context, query.status());
  absl::StatusOr<JobPage> page =
      store_.List(query->states, query->page_size, query->token);
  if (!page.ok()) return Finish(context, page.status());
  for (v1::FineTuneJob& job : page->jobs) {
    *response->add_jobs() = std::move(job);
  }
  response->set_next_page_token(page->next_token);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* TrainingService::CancelFineTune(
    grpc::CallbackServerContext* context,
    const v1::CancelFineTuneRequest* request,
    v1::CancelFineTuneResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  return Answer(context, scheduler_.Cancel(request->job_id()), response);
}

grpc::ServerUnaryReactor* TrainingService::ResumeFineTune(
    grpc::CallbackServerContext* context,
    const v1::ResumeFineTuneRequest* request,
    v1::ResumeFineTuneResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  return Answer(context, scheduler_.Resume(request->job_id()), response);
}

grpc::ServerWriteReactor<v1::WatchProgressResponse>*
TrainingService::WatchProgress(grpc::CallbackServerContext* context,
                               const v1::WatchProgressRequest* request) {
  using Reactor = grpc::ServerWriteReactor<v1::WatchProgressResponse>;
  if (auto* no = Refuse<Reactor>(authorizer_, context, Role::kAdmin)) return no;
  return new Watcher(store_, *request);
}

}  // namespace finetune
