// TrainingService's face: unpack, hand over, pack. No handler blocks, so a few
// gRPC threads carry any number of calls.

#ifndef SERVER_SERVICE_TRAINING_SERVICE_H_
#define SERVER_SERVICE_TRAINING_SERVICE_H_

#include <filesystem>
#include <functional>

#include "finetune/v1/training_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/jobs/job_store.h"
#include "server/jobs/scheduler.h"
#include "server/service/authorizer.h"
#include "server/service/convert_training.h"

namespace finetune {

class TrainingService final : public v1::TrainingService::CallbackService {
 public:
  struct Options {
    std::filesystem::path data_root;   // Data sets are below it.
    std::filesystem::path pretrained;  // Weights of jobs not from scratch.
    FindUploadFn find_upload;
    // RESOURCE_EXHAUSTED if the state folder has no room for another job.
    std::function<absl::Status()> check_state_room;
  };

  // Owns no room; all must outlive the gRPC server.
  TrainingService(Options options, JobStore& store, Scheduler& scheduler,
                  const Authorizer& authorizer);

  grpc::ServerUnaryReactor* StartFineTune(
      grpc::CallbackServerContext* context,
      const v1::StartFineTuneRequest* request,
      v1::StartFineTuneResponse* response) override;

  grpc::ServerUnaryReactor* GetProgress(
      grpc::CallbackServerContext* context,
      const v1::GetProgressRequest* request,
      v1::GetProgressResponse* response) override;

  grpc::ServerWriteReactor<v1::WatchProgressResponse>* WatchProgress(
      grpc::CallbackServerContext* context,
      const v1::WatchProgressRequest* request) override;

  grpc::ServerUnaryReactor* ListFineTunes(
      grpc::CallbackServerContext* context,
      const v1::ListFineTunesRequest* request,
      v1::ListFineTunesResponse* response) override;

  grpc::ServerUnaryReactor* CancelFineTune(
      grpc::CallbackServerContext* context,
      const v1::CancelFineTuneRequest* request,
      v1::CancelFineTuneResponse* response) override;

  grpc::ServerUnaryReactor* ResumeFineTune(
      grpc::CallbackServerContext* context,
      const v1::ResumeFineTuneRequest* request,
      v1::ResumeFineTuneResponse* response) override;

 private:
  absl::StatusOr<JobRequest> Check(
      const v1::StartFineTuneRequest& request) const;
  absl::StatusOr<v1::FineTuneJob> Start(
      const v1::StartFineTuneRequest& request);

  const Options options_;
  JobStore& store_;
  Scheduler& scheduler_;
  const Authorizer& authorizer_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_TRAINING_SERVICE_H_
