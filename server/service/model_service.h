// ModelService's face. No handler waits for more than a short write to disk: a
// version is loaded, and an ONNX file made, on threads that are not gRPC's.

#ifndef SERVER_SERVICE_MODEL_SERVICE_H_
#define SERVER_SERVICE_MODEL_SERVICE_H_

#include <atomic>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/model/registry.h"
#include "server/service/authorizer.h"
#include "server/service/download_reactor.h"
#include "server/service/onnx_files.h"

namespace finetune {

// What the service has others do.
struct ModelHooks {
  // Loads and warms a version, then calls `done`, once, on any thread; that
  // takes as long as a short write to disk. Must not block.
  std::function<void(const v1::Model& model,
                     std::function<void(absl::Status)> done)>
      prepare;
  // A version was promoted. Called before the answer.
  std::function<void()> promoted;
  // A version was deleted: what is kept of it can go.
  std::function<void(const v1::ModelRef& ref)> deleted;
  OnnxFiles::ExportFn export_onnx;
};

class ModelService final : public v1::ModelService::CallbackService {
 public:
  struct Options {
    int max_downloads = 16;  // At once.
    absl::Duration download_timeout = absl::Hours(1);
  };

  // Owns neither; both must outlive the gRPC server, as this must.
  ModelService(Options options, ModelHooks hooks, ModelRegistry& registry,
               const Authorizer& authorizer);

  grpc::ServerUnaryReactor* ListModels(
      grpc::CallbackServerContext* context,
      const v1::ListModelsRequest* request,
      v1::ListModelsResponse* response) override;

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

  grpc::ServerUnaryReactor* PromoteModel(
      grpc::CallbackServerContext* context,
      const v1::PromoteModelRequest* request,
      v1::PromoteModelResponse* response) override;

  grpc::ServerUnaryReactor* DeleteModel(
      grpc::CallbackServerContext* context,
      const v1::DeleteModelRequest* request,
      v1::DeleteModelResponse* response) override;

  grpc::ServerWriteReactor<v1::DownloadModelResponse>* DownloadModel(
      grpc::CallbackServerContext* context,
      const v1::DownloadModelRequest* request) override;

 private:
  absl::StatusOr<v1::ListModelsResponse> List(
      const v1::ListModelsRequest& request);
  absl::StatusOr<v1::Model> Get(const v1::GetModelRequest& request);
  absl::Status Promote(const v1::ModelRef& ref,
                       v1::PromoteModelResponse& response);
  absl::Status Delete(const v1::DeleteModelRequest& request);
  void Send(const v1::DownloadModelRequest& request, DownloadReactor& reactor);

  const Options options_;
  const ModelHooks hooks_;
  ModelRegistry& registry_;
  const Authorizer& authorizer_;
  std::atomic<int> downloads_ = 0;  // That go on.
  OnnxFiles onnx_files_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_MODEL_SERVICE_H_
