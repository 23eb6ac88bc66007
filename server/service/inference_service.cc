#include "server/service/inference_service.h"

#include "common/grpc_status.h"
#include "server/service/convert_inference.h"
#include "server/service/unary.h"

namespace finetune {

InferenceService::InferenceService(ClassifyLimits limits,
                                   Classifier& classifier,
                                   const Authorizer& authorizer)
    : limits_(limits), classifier_(classifier), authorizer_(authorizer) {}

grpc::ServerUnaryReactor* InferenceService::Classify(
    grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
    v1::ClassifyResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const absl::Status checked = CheckClassifyRequest(*request, limits_);
  if (!checked.ok()) return Finish(context, checked);
  // gRPC keeps request, response, context and reactor alive until Finish.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  classifier_.Classify(
      {.model = request->model(),
       .images = {request->images().begin(), request->images().end()},
       .deadline = absl::FromChrono(context->deadline()),
       .cancelled = [context] { return context->IsCancelled(); }},
      [=](const absl::StatusOr<ClassifyAnswer>& answer) {
        absl::Status status = answer.status();
        if (answer.ok()) {
          const ClassifyOutcome& outcome = answer->outcome;
          *response = ToClassifyResponse(answer->servable->model,
                                         request->top_k(), outcome);
          // There is no other image that the answer could be of use for.
          if (outcome.images.size() == 1) status = outcome.images[0].status();
        }
        reactor->Finish(ToGrpcStatus(status));
      });
  return reactor;
}

}  // namespace finetune
