#include "client/datasets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/job_text.h"
#include "client/transfer_printer.h"
#include "common/utf8.h"
#include "finetune/v1/dataset_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr int kPageSize = 100;

void PrintLine(const v1::Dataset& dataset, std::ostream& out) {
  out << absl::StreamFormat(
      "%s  %s  %7d files  %9s  %s\n", ToPrintable(dataset.id()),
      LocalTime("%Y-%m-%d %H:%M", dataset.create_time()), dataset.files(),
      ByteText(static_cast<uint64_t>(dataset.bytes())),
      ToPrintable(dataset.name()));
}

}  // namespace

ExitCode ListDatasets(const Connection& connection, std::ostream& out,
                      std::ostream& err) {
  const auto stub = v1::DatasetService::NewStub(connection.channel);
  v1::ListDatasetsRequest request;
  request.set_page_size(kPageSize);
  do {
    v1::ListDatasetsResponse response;
    const absl::Status status =
        Call(connection, *stub, &v1::DatasetService::Stub::ListDatasets,
             request, response);
    if (!status.ok()) return PrintError(connection, status, err);
    if (connection.json) {
      PrintJson(response, out);
    } else {
      for (const auto& dataset : response.datasets()) PrintLine(dataset, out);
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return kDone;
}

ExitCode DeleteDataset(const Connection& connection, const std::string& id,
                       std::ostream& out, std::ostream& err) {
  const auto stub = v1::DatasetService::NewStub(connection.channel);
  v1::DeleteDatasetRequest request;
  request.set_id(id);
  v1::DeleteDatasetResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::DatasetService::Stub::DeleteDataset, request,
           response);
  return PrintDone(connection, status, response, absl::StrCat("deleted ", id),
                   out, err);
}

}  // namespace finetune
