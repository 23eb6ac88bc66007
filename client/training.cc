#include "client/training.h"

#include "client/progress_printer.h"
#include "common/grpc_status.h"
#include "finetune/v1/training_service.grpc.pb.h"

namespace finetune {

ExitCode StartJob(const Connection& connection,
                  const v1::StartFineTuneRequest& request, bool watch,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  grpc::ClientContext context;
  connection.SetDeadline(context);
  v1::StartFineTuneResponse response;
  const absl::Status status =
      FromGrpcStatus(stub->StartFineTune(&context, request, &response));
  if (!status.ok()) {
    PrintError(connection, status, err);
    return ExitCodeOf(status);
  }
  const std::string& job_id = response.job().job_id();
  if (connection.json) {
    PrintJson(response, out);
  } else {
    out << "job " << job_id << std::endl;
  }
  if (watch) return WatchJob(connection, job_id, options, out, err);
  if (!connection.json) {
    out << "watch it with: finetune progress " << job_id << " --watch\n";
  }
  return kDone;
}

ExitCode ShowJob(const Connection& connection, const std::string& job_id,
                 std::ostream& out, std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  grpc::ClientContext context;
  connection.SetDeadline(context);
  v1::GetProgressRequest request;
  request.set_job_id(job_id);
  v1::GetProgressResponse response;
  const absl::Status status =
      FromGrpcStatus(stub->GetProgress(&context, request, &response));
  if (!status.ok()) {
    PrintError(connection, status, err);
    return ExitCodeOf(status);
  }
  if (connection.json) {
    PrintJson(response, out);
  } else {
    PrintJob(response.job(), out);
  }
  return response.job().state() == v1::JOB_STATE_FAILED ? kFailed : kDone;
}

}  // namespace finetune
