// TrainingService's face: unpack, hand over, pack. No handler blocks, so a few
// gRPC threads carry any number of calls.

#ifndef SERVER_SERVICE_TRAINING_SERVICE_H_
#define SERVER_SERVICE_TRAINING_SERVICE_H_

#include <filesystem>

#include "finetune/v1/training_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/jobs/job_store.h"
#include "server/jobs/scheduler.h"

namespace finetune {

class TrainingService final : public v1::TrainingService::CallbackService {
 public:
  struct Options {
    std::filesystem::path data_root;   // Data sets are below it.
    std::filesystem::path pretrained;  // Weights of jobs not from scratch.
  };

  // Owns neither room; both must outlive the gRPC server.
  TrainingService(Options options, JobStore& store, Scheduler& scheduler);

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

 private:
  absl::StatusOr<v1::FineTuneJob> Start(
      const v1::StartFineTuneRequest& request);

  const Options options_;
  JobStore& store_;
  Scheduler& scheduler_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_TRAINING_SERVICE_H_
