#include "client/training.h"

#include <memory>
#include <random>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/job_text.h"
#include "client/upload.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "finetune/v1/training_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr int kStartRetries = 3;

// A random UUID (RFC 4122, version 4).
std::string NewUuid() {
  std::random_device random;
  const uint32_t a = random(), b = random(), c = random(), d = random();
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%04x%08x", a, b >> 16, b & 0xfff,
                         (c >> 16 & 0x3fff) | 0x8000, c & 0xffff, d);
}

absl::StatusOr<v1::StartFineTuneResponse> StartPatiently(
    const Connection& connection, const v1::StartFineTuneRequest& request,
    absl::Duration first_wait) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  for (int failures = 0;; ++failures) {
    v1::StartFineTuneResponse response;
    const absl::Status status =
        Call(connection, *stub, &v1::TrainingService::Stub::StartFineTune,
             request, response);
    if (status.ok()) return response;
    if (!absl::IsUnavailable(status) || failures == kStartRetries) {
      return status;
    }
    absl::SleepFor(first_wait * (1 << failures));
  }
}

// Uploads the folder that the request names, which then has its id.
absl::Status UploadFor(const Connection& connection, int terminal_width,
                       v1::StartFineTuneRequest& request, std::ostream& out) {
  RETURN_IF_ERROR(CheckMayUpload(connection));
  const std::string folder = request.dataset();
  out << "the server has no data set " << ToPrintable(folder)
      << " of its own; uploading the local folder" << std::endl;
  ASSIGN_OR_RETURN(
      const v1::UploadDatasetResponse upload,
      UploadFolderOrArchive(connection, folder,
                            {.terminal_width = terminal_width}, out));
  out << (upload.existed() ? "the server had it already: data set "
                           : "uploaded as data set ")
      << ToPrintable(upload.dataset().id()) << std::endl;
  request.set_dataset(upload.dataset().id());
  if (request.model_name().empty()) {
    request.set_model_name(ModelNameOf(folder));
  }
  return absl::OkStatus();
}

ExitCode WatchOrSayHow(const Connection& connection, const std::string& job_id,
                       bool watch, const WatchOptions& options,
                       std::ostream& out, std::ostream& err) {
  if (watch) {
    WatchOptions watching = options;
    watching.job_is_known = true;
    return WatchJob(connection, job_id, watching, out, err);
  }
  if (!connection.json) {
    out << "watch it with: finetune watch " << ToPrintable(job_id) << "\n";
  }
  return kDone;
}

}  // namespace

ExitCode StartJob(const Connection& connection,
                  v1::StartFineTuneRequest request, bool watch,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err) {
  if (request.model_name().empty() && !GivesModelName(request.dataset())) {
    err << "finetune: no model name can be made of "
        << ToPrintable(request.dataset())
        << ", which has no ASCII letter or digit: choose one with --name\n";
    return kUsage;
  }
  if (request.request_id().empty()) request.set_request_id(NewUuid());
  const absl::Duration first_wait = options.first_wait / 2;
  auto response = StartPatiently(connection, request, first_wait);
  // ALREADY_EXISTS: perhaps an earlier try of the same, with the upload's id.
  if ((absl::IsNotFound(response.status()) ||
       absl::IsPermissionDenied(response.status()) ||
       absl::IsAlreadyExists(response.status())) &&
      IsDatasetFolder(request.dataset())) {
    const absl::Status uploaded =
        UploadFor(connection, connection.json ? 0 : options.terminal_width,
                  request, connection.json ? err : out);
    response = uploaded.ok() ? StartPatiently(connection, request, first_wait)
                             : uploaded;
  }
  if (!response.ok()) return PrintError(connection, response.status(), err);
  const std::string& job_id = response->job().job_id();
  if (connection.json) {
    PrintJson(*response, out);
  } else if (request.validate_only()) {
    PrintPlan(response->job(), out);
  } else {
    out << "job " << ToPrintable(job_id) << std::endl;
  }
  if (request.validate_only()) return kDone;
  return WatchOrSayHow(connection, job_id, watch, options, out, err);
}

ExitCode ShowJob(const Connection& connection, const std::string& job_id,
                 std::ostream& out, std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  v1::GetProgressRequest request;
  request.set_job_id(job_id);
  v1::GetProgressResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::TrainingService::Stub::GetProgress, request,
           response);
  if (!status.ok()) return PrintError(connection, status, err);
  if (connection.json) {
    PrintJson(response, out);
  } else {
    PrintJob(response.job(), out);
  }
  return HasEnded(response.job()) ? ExitCodeOf(response.job()) : kDone;
}

}  // namespace finetune
