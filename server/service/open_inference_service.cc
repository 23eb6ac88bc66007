#include "server/service/open_inference_service.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_open_inference.h"
#include "server/service/unary.h"
#include "server/service/unary_classify.h"

namespace finetune {

OpenInferenceService::OpenInferenceService(ClassifyLimits limits, Doors doors,
                                           Classifier& classifier, CallLog& log,
                                           const Authorizer& authorizer)
    : limits_(limits),
      doors_(std::move(doors)),
      classifier_(classifier),
      log_(log),
      authorizer_(authorizer) {}

absl::StatusOr<v1::Model> OpenInferenceService::Find(
    const std::string& name, const std::string& version) const {
  ASSIGN_OR_RETURN(const v1::ModelRef ref, ParseModelRef(name, version, ""));
  return doors_.resolve(ref);
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerLive(
    grpc::CallbackServerContext* context, const inference::ServerLiveRequest*,
    inference::ServerLiveResponse* response) {
  response->set_live(true);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerReady(
    grpc::CallbackServerContext* context, const inference::ServerReadyRequest*,
    inference::ServerReadyResponse* response) {
  response->set_ready(doors_.is_ready());
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerMetadata(
    grpc::CallbackServerContext* context,
    const inference::ServerMetadataRequest*,
    inference::ServerMetadataResponse* response) {
  response->set_name("finetuned");
  response->set_version(FINETUNE_VERSION);
  response->add_extensions("classification");
  response->add_extensions("model_configuration");
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelReady(
    grpc::CallbackServerContext* context,
    const inference::ModelReadyRequest* request,
    inference::ModelReadyResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const absl::Status found = Find(request->name(), request->version()).status();
  if (absl::IsInvalidArgument(found)) return Finish(context, found);
  response->set_ready(found.ok());
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelMetadata(
    grpc::CallbackServerContext* context,
    const inference::ModelMetadataRequest* request,
    inference::ModelMetadataResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const auto model = Find(request->name(), request->version());
  if (!model.ok()) return Finish(context, model.status());
  std::vector<int64_t> versions;
  for (const v1::Model& other : doors_.list_models()) {
    if (other.ref().name() != model->ref().name()) continue;
    versions.push_back(other.ref().version());
  }
  *response = ToModelMetadata(*model, versions);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelConfig(
    grpc::CallbackServerContext* context,
    const inference::ModelConfigRequest* request,
    inference::ModelConfigResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const auto model = Find(request->name(), request->version());
  if (!model.ok()) return Finish(context, model.status());
  *response->mutable_config() = ToModelConfig(*model, limits_);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::RepositoryIndex(
    grpc::CallbackServerContext* context,
    const inference::RepositoryIndexRequest* request,
    inference::RepositoryIndexResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  if (!request->repository_name().empty()) {
    return Finish(context, InvalidFieldError("repository_name", "empty"));
  }
  for (const v1::Model& model : doors_.list_models()) {
    auto* entry = response->add_models();
    entry->set_name(model.ref().name());
    entry->set_version(absl::StrCat(model.ref().version()));
    entry->set_state("READY");
  }
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelInfer(
    grpc::CallbackServerContext* context,
    const inference::ModelInferRequest* request,
    inference::ModelInferResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  const auto call = ParseInferRequest(*request, limits_);
  if (!call.ok()) return Finish(context, call.status());
  // gRPC keeps request, response, context and reactor alive until Finish.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  ClassifyForCall(
      classifier_, log_, context, call->model, call->images,
      [=, call = *call](const absl::StatusOr<ClassifyAnswer>& answer) {
        absl::Status status = answer.status();
        if (answer.ok()) {
          auto inferred =
              ToInferResponse(answer->servable->model, call, answer->outcome);
          status = inferred.status();
          if (inferred.ok()) *response = *std::move(inferred);
          response->set_id(request->id());
        }
        reactor->Finish(ToGrpcStatus(status));
      });
  return reactor;
}

}  // namespace finetune
