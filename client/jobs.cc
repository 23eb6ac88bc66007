#include "client/jobs.h"

#include <algorithm>
#include <memory>

#include "client/job_text.h"
#include "common/utf8.h"
#include "finetune/v1/training_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr int kMaxPageSize = 100;

void PrintState(const Connection& connection,
                const google::protobuf::Message& response,
                const v1::FineTuneJob& job, std::ostream& out) {
  if (connection.json) return PrintJson(response, out);
  out << "job " << ToPrintable(job.job_id()) << ": " << StateText(job)
      << std::endl;
}

}  // namespace

ExitCode ListJobs(const Connection& connection, const ListOptions& options,
                  std::ostream& out, std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  v1::ListFineTunesRequest request;
  for (const v1::JobState state : options.states) request.add_states(state);
  std::vector<v1::FineTuneJob> jobs;
  v1::ListFineTunesResponse page;
  do {
    const int left = options.limit - static_cast<int>(jobs.size());
    request.set_page_size(std::min(left, kMaxPageSize));
    request.set_page_token(page.next_page_token());
    const absl::Status status =
        Call(connection, *stub, &v1::TrainingService::Stub::ListFineTunes,
             request, page);
    if (!status.ok()) return PrintError(connection, status, err);
    for (v1::FineTuneJob& job : *page.mutable_jobs()) {
      if (connection.json) PrintJson(job, out);
      jobs.push_back(std::move(job));
    }
  } while (!page.next_page_token().empty() && page.jobs_size() > 0 &&
           static_cast<int>(jobs.size()) < options.limit);
  if (!connection.json) PrintJobs(jobs, out);
  return kDone;
}

ExitCode CancelJob(const Connection& connection, const std::string& job_id,
                   std::ostream& out, std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  v1::CancelFineTuneRequest request;
  request.set_job_id(job_id);
  v1::CancelFineTuneResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::TrainingService::Stub::CancelFineTune,
           request, response);
  if (!status.ok()) return PrintError(connection, status, err);
  PrintState(connection, response, response.job(), out);
  return kDone;
}

ExitCode ResumeJob(const Connection& connection, const std::string& job_id,
                   bool watch, const WatchOptions& options, std::ostream& out,
                   std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  v1::ResumeFineTuneRequest request;
  request.set_job_id(job_id);
  v1::ResumeFineTuneResponse response;
  const absl::Status status =
      Call(connection, *stub, &v1::TrainingService::Stub::ResumeFineTune,
           request, response);
  if (!status.ok()) return PrintError(connection, status, err);
  PrintState(connection, response, response.job(), out);
  if (!watch) return kDone;
  WatchOptions watching = options;
  watching.job_is_known = true;
  return WatchJob(connection, job_id, watching, out, err);
}

}  // namespace finetune
