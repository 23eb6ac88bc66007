#include "client/datasets.h"

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/transfer_printer.h"
#include "common/grpc_status.h"
#include "finetune/v1/dataset_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr int kPageSize = 100;

void PrintLine(const v1::Dataset& dataset, std::ostream& out) {
  const absl::Time created =
      absl::FromUnixSeconds(dataset.create_time().seconds());
  out << absl::StreamFormat(
      "%s  %s  %7d files  %9s  %s\n", dataset.id(),
      absl::FormatTime("%Y-%m-%d %H:%M", created, absl::LocalTimeZone()),
      dataset.files(), ByteText(static_cast<uint64_t>(dataset.bytes())),
      dataset.name());
}

}  // namespace

ExitCode ListDatasets(const Connection& connection, std::ostream& out,
                      std::ostream& err) {
  const auto stub = v1::DatasetService::NewStub(connection.channel);
  v1::ListDatasetsRequest request;
  request.set_page_size(kPageSize);
  do {
    grpc::ClientContext context;
    connection.PrepareCall(context);
    v1::ListDatasetsResponse response;
    const absl::Status status =
        FromGrpcStatus(stub->ListDatasets(&context, request, &response));
    if (!status.ok()) {
      PrintError(connection, status, err);
      return ExitCodeOf(status);
    }
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
  grpc::ClientContext context;
  connection.PrepareCall(context);
  v1::DeleteDatasetRequest request;
  request.set_id(id);
  v1::DeleteDatasetResponse response;
  const absl::Status status =
      FromGrpcStatus(stub->DeleteDataset(&context, request, &response));
  if (!status.ok()) {
    PrintError(connection, status, err);
    return ExitCodeOf(status);
  }
  if (connection.json) {
    PrintJson(response, out);
  } else {
    out << "deleted " << id << "\n";
  }
  return kDone;
}

}  // namespace finetune
