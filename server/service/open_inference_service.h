// The Open Inference Protocol's face: unpack, hand to the classifier, pack.

#ifndef SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_
#define SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "finetune/v1/model.pb.h"
#include "grpcpp/grpcpp.h"
#include "inference/open_inference.grpc.pb.h"
#include "server/inference/classifier.h"
#include "server/service/authorizer.h"
#include "server/service/call_log.h"
#include "server/service/convert_inference.h"

namespace finetune {

class OpenInferenceService final
    : public inference::GRPCInferenceService::CallbackService {
 public:
  // What the service asks of others. Each is quick and thread-safe.
  struct Doors {
    Classifier::ResolveFn resolve;
    std::function<std::vector<v1::Model>()> list_models;
    // Whether the default model can be served, and the server does not shut
    // down.
    std::function<bool()> is_ready;
  };

  // References must outlive the gRPC server.
  OpenInferenceService(ClassifyLimits limits, Doors doors,
                       Classifier& classifier, CallLog& log,
                       const Authorizer& authorizer);

  grpc::ServerUnaryReactor* ServerLive(
      grpc::CallbackServerContext* context,
      const inference::ServerLiveRequest* request,
      inference::ServerLiveResponse* response) override;
  grpc::ServerUnaryReactor* ServerReady(
      grpc::CallbackServerContext* context,
      const inference::ServerReadyRequest* request,
      inference::ServerReadyResponse* response) override;
  grpc::ServerUnaryReactor* ServerMetadata(
      grpc::CallbackServerContext* context,
      const inference::ServerMetadataRequest* request,
      inference::ServerMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelReady(
      grpc::CallbackServerContext* context,
      const inference::ModelReadyRequest* request,
      inference::ModelReadyResponse* response) override;
  grpc::ServerUnaryReactor* ModelMetadata(
      grpc::CallbackServerContext* context,
      const inference::ModelMetadataRequest* request,
      inference::ModelMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelConfig(
      grpc::CallbackServerContext* context,
      const inference::ModelConfigRequest* request,
      inference::ModelConfigResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryIndex(
      grpc::CallbackServerContext* context,
      const inference::RepositoryIndexRequest* request,
      inference::RepositoryIndexResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfer(
      grpc::CallbackServerContext* context,
      const inference::ModelInferRequest* request,
      inference::ModelInferResponse* response) override;

 private:
  absl::StatusOr<v1::Model> Find(const std::string& name,
                                 const std::string& version) const;

  const ClassifyLimits limits_;
  const Doors doors_;
  Classifier& classifier_;
  CallLog& log_;
  const Authorizer& authorizer_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_OPEN_INFERENCE_SERVICE_H_
