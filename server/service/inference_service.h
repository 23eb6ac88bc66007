// InferenceService's face: unpack, hand to the classifier, pack.

#ifndef SERVER_SERVICE_INFERENCE_SERVICE_H_
#define SERVER_SERVICE_INFERENCE_SERVICE_H_

#include "finetune/v1/inference_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/classifier.h"
#include "server/service/authorizer.h"
#include "server/service/convert_inference.h"

namespace finetune {

class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  // Both must outlive the gRPC server.
  InferenceService(ClassifyLimits limits, Classifier& classifier,
                   const Authorizer& authorizer);

  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

 private:
  const ClassifyLimits limits_;
  Classifier& classifier_;
  const Authorizer& authorizer_;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_INFERENCE_SERVICE_H_
