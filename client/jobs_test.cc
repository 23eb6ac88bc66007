#include "client/jobs.h"

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Has `jobs` jobs, ft-0, ft-1, ..., and the page token is where to go on.
class FakeTraining final : public v1::TrainingService::Service {
 public:
  grpc::Status ListFineTunes(grpc::ServerContext*,
                             const v1::ListFineTunesRequest* request,
                             v1::ListFineTunesResponse* response) override {
    lists.push_back(*request);
    int next = 0;
    if (!request->page_token().empty() &&
        !absl::SimpleAtoi(request->page_token(), &next)) {
      return ToGrpcStatus(InvalidFieldError("page_token", "ours"));
    }
    const int end = std::min(next + request->page_size(), jobs);
    for (; next < end; ++next) {
      response->add_jobs()->set_job_id("ft-" + std::to_string(next));
    }
    if (end < jobs) response->set_next_page_token(std::to_string(end));
    return grpc::Status::OK;
  }
  grpc::Status CancelFineTune(grpc::ServerContext*,
                              const v1::CancelFineTuneRequest* request,
                              v1::CancelFineTuneResponse* response) override {
    return Answer(request->job_id(), v1::JOB_STATE_CANCELLING,
                  *response->mutable_job());
  }
  grpc::Status ResumeFineTune(grpc::ServerContext*,
                              const v1::ResumeFineTuneRequest* request,
                              v1::ResumeFineTuneResponse* response) override {
    response->mutable_job()->set_queue_position(1);
    return Answer(request->job_id(), v1::JOB_STATE_QUEUED,
                  *response->mutable_job());
  }
  grpc::Status WatchProgress(
      grpc::ServerContext*, const v1::WatchProgressRequest*,
      grpc::ServerWriter<v1::WatchProgressResponse>* writer) override {
    v1::WatchProgressResponse response;
    response.set_sequence(1);
    response.mutable_job()->set_state(v1::JOB_STATE_SUCCEEDED);
    writer->Write(response);
    return grpc::Status::OK;
  }

  int jobs = 250;
  std::vector<v1::ListFineTunesRequest> lists;

 private:
  static grpc::Status Answer(const std::string& job_id, v1::JobState state,
                             v1::FineTuneJob& job) {
    if (job_id != "ft-1") {
      return ToGrpcStatus(NoSuchResourceError("job", job_id));
    }
    job.set_job_id(job_id);
    job.set_state(state);
    return grpc::Status::OK;
  }
};

class JobsTest : public ::testing::Test {
 protected:
  JobsTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&training_);
    server_ = builder.BuildAndStart();
    connection_.channel = server_->InProcessChannel({});
  }

  std::vector<int> PageSizes() const {
    std::vector<int> sizes;
    for (const auto& request : training_.lists) {
      sizes.push_back(request.page_size());
    }
    return sizes;
  }

  FakeTraining training_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  std::ostringstream out_, err_;
};

TEST_F(JobsTest, ListFollowsPagesUpToTheLimit) {
  connection_.json = true;
  const ListOptions options{.states = {v1::JOB_STATE_FAILED}, .limit = 120};
  EXPECT_EQ(ListJobs(connection_, options, out_, err_), kDone);
  EXPECT_THAT(PageSizes(), ElementsAre(100, 20));
  EXPECT_EQ(training_.lists[1].states(0), v1::JOB_STATE_FAILED);
  const std::string lines = out_.str();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 120);
  EXPECT_THAT(lines, HasSubstr("{\"job_id\":\"ft-119\"}\n"));
}

TEST_F(JobsTest, ListEndsWithTheLastPage) {
  EXPECT_EQ(ListJobs(connection_, {.limit = 1000}, out_, err_), kDone);
  EXPECT_THAT(PageSizes(), ElementsAre(100, 100, 100));
  EXPECT_THAT(out_.str(), HasSubstr("\nft-249 "));
}

TEST_F(JobsTest, ListOfNothingSaysSo) {
  training_.jobs = 0;
  EXPECT_EQ(ListJobs(connection_, {}, out_, err_), kDone);
  EXPECT_EQ(out_.str(), "no jobs\n");
}

TEST_F(JobsTest, CancelSaysTheState) {
  EXPECT_EQ(CancelJob(connection_, "ft-1", out_, err_), kDone);
  EXPECT_EQ(out_.str(), "job ft-1: cancelling\n");
}

TEST_F(JobsTest, ResumeSaysTheStateAndCanWatch) {
  EXPECT_EQ(ResumeJob(connection_, "ft-1", false, {}, out_, err_), kDone);
  EXPECT_EQ(out_.str(), "job ft-1: queued, position 1\n");
  EXPECT_EQ(ResumeJob(connection_, "ft-1", true, {}, out_, err_), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("model "));
}

TEST_F(JobsTest, UnknownJobIsExitCodeOne) {
  EXPECT_EQ(CancelJob(connection_, "ft-9", out_, err_), kFailed);
  EXPECT_EQ(ResumeJob(connection_, "ft-9", true, {}, out_, err_), kFailed);
  EXPECT_EQ(err_.str(),
            "finetune: no job \"ft-9\"\nfinetune: no job \"ft-9\"\n");
}

TEST_F(JobsTest, JsonIsTheResponse) {
  connection_.json = true;
  EXPECT_EQ(CancelJob(connection_, "ft-1", out_, err_), kDone);
  EXPECT_EQ(out_.str(),
            "{\"job\":{\"job_id\":\"ft-1\",\"state\":"
            "\"JOB_STATE_CANCELLING\"}}\n");
}

}  // namespace
}  // namespace finetune
