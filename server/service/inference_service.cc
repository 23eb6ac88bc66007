#include "server/service/inference_service.h"

#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "server/service/convert_inference.h"
#include "server/service/unary.h"
#include "server/service/unary_classify.h"

namespace finetune {

InferenceService::InferenceService(ClassifyLimits limits,
                                   Classifier& classifier, CallLog& log,
                                   const Authorizer& authorizer)
    : limits_(limits),
      classifier_(classifier),
      log_(log),
      authorizer_(authorizer) {}

grpc::ServerUnaryReactor* InferenceService::Classify(
    grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
    v1::ClassifyResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const absl::Status checked = CheckClassifyRequest(*request, limits_);
  if (!checked.ok()) return Finish(context, checked);
  // gRPC keeps request, response, context and reactor alive until Finish.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  ClassifyForCall(classifier_, log_, context, request->model(),
                  {request->images().begin(), request->images().end()},
                  [=](const absl::StatusOr<ClassifyAnswer>& answer) {
                    absl::Status status = answer.status();
                    if (answer.ok()) {
                      const ClassifyOutcome& outcome = answer->outcome;
                      *response = ToClassifyResponse(answer->servable->model,
                                                     request->top_k(), outcome);
                      // There is no other image that the answer could be of use
                      // for.
                      if (outcome.images.size() == 1)
                        status = outcome.images[0].status();
                    }
                    reactor->Finish(ToGrpcStatus(status));
                  });
  return reactor;
}

grpc::ServerBidiReactor<v1::ClassifyStreamRequest, v1::ClassifyStreamResponse>*
InferenceService::ClassifyStream(grpc::CallbackServerContext* context) {
  using Reactor = grpc::ServerBidiReactor<v1::ClassifyStreamRequest,
                                          v1::ClassifyStreamResponse>;
  if (auto* no = Refuse<Reactor>(authorizer_, context, Role::kClassify)) {
    return no;
  }
  const MutexLock lock(mu_);
  if (ending_) return new RefusedCall<Reactor>(ShuttingDownError());
  auto* const stream = new finetune::ClassifyStream(
      classifier_, limits_, absl::FromChrono(context->deadline()),
      [this](finetune::ClassifyStream* over) {
        const MutexLock lock(mu_);
        streams_.erase(over);
      });
  streams_.insert(stream);
  return stream;
}

void InferenceService::EndStreams() {
  const MutexLock lock(mu_);
  ending_ = true;
  for (finetune::ClassifyStream* const stream : streams_) stream->ShutDown();
}

}  // namespace finetune
