#include "server/service/inference_service.h"

#include <memory>
#include <string>
#include <utility>

#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_inference.h"
#include "server/service/unary.h"

namespace finetune {

InferenceService::InferenceService(ClassifyLimits limits,
                                   const ModelRegistry& registry,
                                   ModelCache& models, Batcher& batcher,
                                   const Authorizer& authorizer)
    : limits_(limits),
      registry_(registry),
      models_(models),
      batcher_(batcher),
      authorizer_(authorizer) {}

absl::StatusOr<ClassifyWork> InferenceService::ToWork(
    const v1::ClassifyRequest& request) {
  RETURN_IF_ERROR(CheckClassifyRequest(request, limits_));
  ASSIGN_OR_RETURN(const v1::Model model, registry_.Resolve(request.model()));
  ClassifyWork work;
  ASSIGN_OR_RETURN(work.servable, models_.Get(model));
  work.images.assign(request.images().begin(), request.images().end());
  return work;
}

grpc::ServerUnaryReactor* InferenceService::Classify(
    grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
    v1::ClassifyResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  absl::StatusOr<ClassifyWork> work = ToWork(*request);
  if (!work.ok()) return Finish(context, work.status());
  // gRPC keeps request, response, context and reactor alive until Finish.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  work->deadline = absl::FromChrono(context->deadline());
  work->cancelled = [context] { return context->IsCancelled(); };
  const std::shared_ptr<const Servable> servable = work->servable;
  batcher_.Submit(
      *std::move(work), [=](const absl::StatusOr<ClassifyOutcome>& outcome) {
        absl::Status status = outcome.status();
        if (outcome.ok()) {
          *response =
              ToClassifyResponse(servable->model, request->top_k(), *outcome);
          // There is no other image that the answer could be of use for.
          if (outcome->images.size() == 1) status = outcome->images[0].status();
        }
        reactor->Finish(ToGrpcStatus(status));
      });
  return reactor;
}

}  // namespace finetune
