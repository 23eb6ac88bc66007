#include "server/service/training_service.h"

#include <string>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert.h"

namespace finetune {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                 const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

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
    if (latest->sequence() <= after_sequence_) {  // It had the job's end.
      return FinishOnce(grpc::Status::OK);
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
                                 Scheduler& scheduler)
    : options_(std::move(options)), store_(store), scheduler_(scheduler) {}

grpc::ServerUnaryReactor* TrainingService::StartFineTune(
    grpc::CallbackServerContext* context,
    const v1::StartFineTuneRequest* request,
    v1::StartFineTuneResponse* response) {
  absl::StatusOr<v1::FineTuneJob> job = Start(*request);
  if (job.ok()) *response->mutable_job() = *std::move(job);
  return Finish(context, job.status());
}

absl::StatusOr<v1::FineTuneJob> TrainingService::Start(
    const v1::StartFineTuneRequest& request) {
  ASSIGN_OR_RETURN(JobRequest job, ToJobRequest(request, options_.data_root));
  std::error_code ignored;
  if (!job.hyper_parameters.from_scratch() &&
      !std::filesystem::is_regular_file(options_.pretrained, ignored)) {
    return PreconditionError(
        "WEIGHTS", options_.pretrained.native(),
        absl::StrCat(
            "this server has no pretrained weights at ",
            options_.pretrained.native(),
            ": give it --pretrained FILE, run scripts/fetch_weights.sh "
            "there, or train from_scratch"));
  }
  return scheduler_.Submit(std::move(job));
}

grpc::ServerUnaryReactor* TrainingService::GetProgress(
    grpc::CallbackServerContext* context, const v1::GetProgressRequest* request,
    v1::GetProgressResponse* response) {
  absl::StatusOr<v1::FineTuneJob> job = store_.Get(request->job_id());
  if (job.ok()) *response->mutable_job() = *std::move(job);
  return Finish(context, job.status());
}

grpc::ServerWriteReactor<v1::WatchProgressResponse>*
TrainingService::WatchProgress(grpc::CallbackServerContext* /*context*/,
                               const v1::WatchProgressRequest* request) {
  return new Watcher(store_, *request);
}

}  // namespace finetune
