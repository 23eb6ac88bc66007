// InferenceService's face: unpack, hand to the batcher, pack.

#ifndef SERVER_SERVICE_INFERENCE_SERVICE_H_
#define SERVER_SERVICE_INFERENCE_SERVICE_H_

#include "absl/status/statusor.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/batcher.h"
#include "server/inference/model_cache.h"
#include "server/model/registry.h"
#include "server/service/authorizer.h"
#include "server/service/convert_inference.h"

namespace finetune {

class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  // Owns no room; all must outlive the gRPC server.
  InferenceService(ClassifyLimits limits, const ModelRegistry& registry,
                   ModelCache& models, Batcher& batcher,
                   const Authorizer& authorizer);

  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

 private:
  absl::StatusOr<ClassifyWork> ToWork(const v1::ClassifyRequest& request);

  const ClassifyLimits limits_;
  const ModelRegistry& registry_;
  ModelCache& models_;
  Batcher& batcher_;
  const Authorizer& authorizer_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_INFERENCE_SERVICE_H_
