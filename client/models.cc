#include "client/models.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/job_text.h"
#include "common/utf8.h"
#include "finetune/v1/model_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr int kPageSize = 100;

void PrintModels(const std::vector<v1::Model>& models, std::ostream& out) {
  if (models.empty()) {
    out << "no models\n";
    return;
  }
  int name = 5;  // Columns.
  for (const v1::Model& model : models) {
    name = std::max(name, static_cast<int>(ModelName(model.ref()).size()));
  }
  out << absl::StrFormat("%-*s  %-8s  %8s  %-16s  %s\n", name, "MODEL",
                         "PROMOTED", "TEST ACC", "CREATED", "JOB");
  for (const v1::Model& model : models) {
    out << absl::StrFormat("%-*s  %-8s  %8.3f  %-16s  %s\n", name,
                           ModelName(model.ref()),
                           model.promoted() ? "yes" : "", model.test_accuracy(),
                           LocalTime("%Y-%m-%d %H:%M", model.create_time()),
                           ToPrintable(model.job_id()));
  }
}

}  // namespace

ExitCode ListModels(const Connection& connection, const std::string& name,
                    std::ostream& out, std::ostream& err) {
  const auto stub = v1::ModelService::NewStub(connection.channel);
  v1::ListModelsRequest request;
  request.set_name(name);
  request.set_page_size(kPageSize);
  std::vector<v1::Model> models;
  do {
    v1::ListModelsResponse response;
    const absl::Status status =
        Call(connection, *stub, &v1::ModelService::Stub::ListModels, request,
             response);
    if (!status.ok()) return PrintError(connection, status, err);
    for (v1::Model& model : *response.mutable_models()) {
      if (connection.json) PrintJson(model, out);
      model.clear_labels();  // Not in the table, and there may be thousands.
      models.push_back(std::move(model));
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (!connection.json) PrintModels(models, out);
  return kDone;
}

ExitCode PromoteModel(const Connection& connection, const v1::ModelRef& model,
                      std::ostream& out, std::ostream& err) {
  const auto stub = v1::ModelService::NewStub(connection.channel);
  v1::PromoteModelRequest request;
  *request.mutable_model() = model;
  v1::PromoteModelResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::ModelService::Stub::PromoteModel, request,
           response);
  return PrintDone(
      connection, status, response,
      absl::StrCat(ModelName(response.model().ref()), " is promoted"), out,
      err);
}

ExitCode DeleteModel(const Connection& connection, const v1::ModelRef& model,
                     std::ostream& out, std::ostream& err) {
  const auto stub = v1::ModelService::NewStub(connection.channel);
  v1::DeleteModelRequest request;
  *request.mutable_model() = model;
  v1::DeleteModelResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::ModelService::Stub::DeleteModel, request,
           response);
  return PrintDone(connection, status, response,
                   absl::StrCat("deleted ", ModelName(model)), out, err);
}

}  // namespace finetune
