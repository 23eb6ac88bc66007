// InferenceService's face: unpack, hand to the classifier, pack.

#ifndef SERVER_SERVICE_INFERENCE_SERVICE_H_
#define SERVER_SERVICE_INFERENCE_SERVICE_H_

#include <set>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/classifier.h"
#include "server/service/authorizer.h"
#include "server/service/call_log.h"
#include "server/service/classify_stream.h"
#include "server/service/convert_inference.h"

namespace finetune {

class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  // References must outlive the gRPC server.
  InferenceService(ClassifyLimits limits, Classifier& classifier, CallLog& log,
                   const Authorizer& authorizer);

  grpc::ServerUnaryReactor* Classify(grpc::CallbackServerContext* context,
                                     const v1::ClassifyRequest* request,
                                     v1::ClassifyResponse* response) override;

  grpc::ServerBidiReactor<v1::ClassifyStreamRequest,
                          v1::ClassifyStreamResponse>*
  ClassifyStream(grpc::CallbackServerContext* context) override
      ABSL_LOCKS_EXCLUDED(mu_);

  // To be called before the classifier refuses work: streams, which may be idle
  // and would go on for ever, end with UNAVAILABLE once what they handed on is
  // answered. Returns at once. New ones are refused.
  void EndStreams() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const ClassifyLimits limits_;
  Classifier& classifier_;
  CallLog& log_;
  const Authorizer& authorizer_;
  Mutex mu_;  // Taken before a stream's, never the other way round.
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::set<finetune::ClassifyStream*> streams_ ABSL_GUARDED_BY(mu_);
};

}  // namespace finetune

#endif  // SERVER_SERVICE_INFERENCE_SERVICE_H_
