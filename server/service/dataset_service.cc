#include "server/service/dataset_service.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/unary.h"
#include "server/service/upload_reactor.h"

namespace finetune {

DatasetService::DatasetService(Options options, DatasetStore& store,
                               const Authorizer& authorizer)
    : options_(options), store_(store), authorizer_(authorizer) {}

grpc::ServerReadReactor<v1::UploadDatasetRequest>*
DatasetService::UploadDataset(grpc::CallbackServerContext* context,
                              v1::UploadDatasetResponse* response) {
  using Reactor = grpc::ServerReadReactor<v1::UploadDatasetRequest>;
  if (auto* no = Refuse<Reactor>(authorizer_, context, Role::kAdmin)) return no;
  return new UploadReactor(store_, uploads_, options_.max_uploads,
                           options_.header_timeout, response);
}

grpc::ServerUnaryReactor* DatasetService::ListDatasets(
    grpc::CallbackServerContext* context,
    const v1::ListDatasetsRequest* request,
    v1::ListDatasetsResponse* response) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  absl::StatusOr<v1::ListDatasetsResponse> list = List(*request);
  if (list.ok()) *response = *std::move(list);
  return Finish(context, list.status());
}

absl::StatusOr<v1::ListDatasetsResponse> DatasetService::List(
    const v1::ListDatasetsRequest& request) {
  ASSIGN_OR_RETURN(const int page_size, ResolvePageSize(request.page_size()));
  ASSIGN_OR_RETURN(DatasetStore::Page page,
                   store_.List(page_size, request.page_token()));
  v1::ListDatasetsResponse response;
  for (v1::Dataset& dataset : page.datasets) {
    *response.add_datasets() = std::move(dataset);
  }
  response.set_next_page_token(std::move(page.next_page_token));
  return response;
}

grpc::ServerUnaryReactor* DatasetService::DeleteDataset(
    grpc::CallbackServerContext* context,
    const v1::DeleteDatasetRequest* request,
    v1::DeleteDatasetResponse* /*response*/) {
  if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
  return Finish(context, Delete(*request));
}

absl::Status DatasetService::Delete(const v1::DeleteDatasetRequest& request) {
  const std::string id = absl::AsciiStrToLower(request.id());
  if (!IsDatasetId(id)) {
    return InvalidFieldError("id", "64 hexadecimal digits");
  }
  return store_.Delete(id);
}

}  // namespace finetune
