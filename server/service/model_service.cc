#include "server/service/model_service.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_model.h"
#include "server/service/unary.h"

namespace finetune {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(10);

}  // namespace

ModelService::ModelService(Options options, ModelHooks hooks,
                           ModelRegistry& registry,
                           const Authorizer& authorizer)
    : options_(options),
      hooks_(std::move(hooks)),
      registry_(registry),
      authorizer_(authorizer),
      onnx_files_(hooks_.export_onnx) {}

grpc::ServerUnaryReactor* ModelService::ListModels(
    grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
    v1::ListModelsResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  absl::StatusOr<v1::ListModelsResponse> list = List(*request);
  if (list.ok()) *response = *std::move(list);
  return Finish(context, list.status());
}

absl::StatusOr<v1::ListModelsResponse> ModelService::List(
    const v1::ListModelsRequest& request) {
  RETURN_IF_ERROR(CheckListModelsRequest(request));
  ASSIGN_OR_RETURN(const int page_size, ResolvePageSize(request.page_size()));
  ASSIGN_OR_RETURN(
      ModelRegistry::Page page,
      registry_.List(request.name(), page_size, request.page_token()));
  v1::ListModelsResponse response;
  for (v1::Model& model : page.models) {
    *response.add_models() = std::move(model);
  }
  response.set_next_page_token(std::move(page.next_page_token));
  return response;
}

grpc::ServerUnaryReactor* ModelService::GetModel(
    grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
    v1::GetModelResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kClassify)) return no;
  absl::StatusOr<v1::Model> model = Get(*request);
  if (model.ok()) *response->mutable_model() = *std::move(model);
  return Finish(context, model.status());
}

absl::StatusOr<v1::Model> ModelService::Get(
    const v1::GetModelRequest& request) {
  RETURN_IF_ERROR(CheckModelRef(request.model()));
  return registry_.Resolve(request.model());
}

grpc::ServerUnaryReactor* ModelService::PromoteModel(
    grpc::CallbackServerContext* context,
    const v1::PromoteModelRequest* request,
    v1::PromoteModelResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  const absl::Status checked = CheckModelVersion(request->model());
  if (!checked.ok()) return Finish(context, checked);
  const absl::StatusOr<v1::Model> model = registry_.Resolve(request->model());
  if (!model.ok()) return Finish(context, model.status());
  // gRPC keeps request, response, context and reactor alive until Finish.
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  hooks_.prepare(*model, [=, this](absl::Status status) {
    if (status.ok()) status = Promote(request->model(), *response);
    reactor->Finish(ToGrpcStatus(status));
  });
  return reactor;
}

absl::Status ModelService::Promote(const v1::ModelRef& ref,
                                   v1::PromoteModelResponse& response) {
  ASSIGN_OR_RETURN(*response.mutable_model(), registry_.Promote(ref));
  hooks_.promoted();
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* ModelService::DeleteModel(
    grpc::CallbackServerContext* context, const v1::DeleteModelRequest* request,
    v1::DeleteModelResponse* /*response*/) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  return Finish(context, Delete(*request));
}

absl::Status ModelService::Delete(const v1::DeleteModelRequest& request) {
  RETURN_IF_ERROR(CheckModelVersion(request.model()));
  RETURN_IF_ERROR(registry_.Delete(request.model()));
  hooks_.deleted(request.model());
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::DownloadModelResponse>*
ModelService::DownloadModel(grpc::CallbackServerContext* context,
                            const v1::DownloadModelRequest* request) {
  using Reactor = grpc::ServerWriteReactor<v1::DownloadModelResponse>;
  if (auto* no = Refuse<Reactor>(authorizer_, context, Role::kAdmin)) return no;
  auto* const reactor =
      new DownloadReactor(*context, downloads_, options_.download_timeout);
  Send(*request, *reactor);
  return reactor;
}

void ModelService::Send(const v1::DownloadModelRequest& request,
                        DownloadReactor& reactor) {
  absl::Status checked = CheckDownloadModelRequest(request);
  if (++downloads_ > options_.max_downloads && checked.ok()) {
    checked = RetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            options_.max_downloads, " downloads go on, as many as may")),
        kRetryDelay);
  }
  if (!checked.ok()) return reactor.End(checked);
  const absl::StatusOr<v1::Model> model = registry_.Resolve(request.model());
  if (!model.ok()) return reactor.End(model.status());
  const std::filesystem::path dir = registry_.DirOf(model->ref());
  if (request.format() != v1::MODEL_FORMAT_ONNX) {
    return reactor.Send(model->ref(), dir / kWeightsFile,
                        model->weights_sha256());
  }
  onnx_files_.Get(*model, dir,
                  [&reactor, ref = model->ref()](const auto& file) {
                    reactor.Send(ref, file, "");
                  });
}

}  // namespace finetune
