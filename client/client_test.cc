#include <signal.h>
#include <unistd.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/training.h"
#include "client/watch.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;

// Answers as a test tells it to.
class FakeTraining final : public v1::TrainingService::Service {
 public:
  grpc::Status StartFineTune(grpc::ServerContext*,
                             const v1::StartFineTuneRequest* request,
                             v1::StartFineTuneResponse* response) override {
    starts.push_back(*request);
    response->mutable_job()->set_job_id("ft-1");
    if (starts.size() <= failing_starts) return watch_end;
    return ToGrpcStatus(start_status);
  }
  grpc::Status GetProgress(grpc::ServerContext*,
                           const v1::GetProgressRequest* request,
                           v1::GetProgressResponse* response) override {
    if (!answers) return {grpc::StatusCode::UNAVAILABLE, "away"};
    if (request->job_id() != "ft-1") {
      return ToGrpcStatus(NoSuchResourceError("job", request->job_id()));
    }
    response->mutable_job()->set_job_id("ft-1");
    response->mutable_job()->set_state(end_state);
    return grpc::Status::OK;
  }
  // Sends one snapshot a call and breaks off, until the last one is out.
  grpc::Status WatchProgress(
      grpc::ServerContext*, const v1::WatchProgressRequest* request,
      grpc::ServerWriter<v1::WatchProgressResponse>* writer) override {
    after.push_back(request->after_sequence());
    if (cut_streams > 0) {
      --cut_streams;
      return watch_end;
    }
    if (request->after_sequence() >= silent_after) return watch_end;
    v1::WatchProgressResponse response;
    response.set_sequence(request->after_sequence() + 1);
    const bool last =
        response.sequence() == 3 || (ends_at_once && after.size() > 1);
    response.mutable_job()->set_state(last ? end_state : v1::JOB_STATE_RUNNING);
    writer->Write(response);
    if (interrupt) kill(getpid(), SIGINT);
    if (last && last_is_ok) return grpc::Status::OK;
    return watch_end;
  }

  absl::Status start_status;
  v1::JobState end_state = v1::JOB_STATE_SUCCEEDED;
  grpc::Status watch_end{grpc::StatusCode::UNAVAILABLE, "going away"};
  uint64_t silent_after = 100;  // No snapshot after that one.
  bool answers = true;          // GetProgress does.
  int cut_streams = 0;          // The next ones end without a snapshot.
  bool ends_at_once = false;    // After the first snapshot, without another.
  bool last_is_ok = true;
  bool interrupt = false;  // Ctrl-C before the stream breaks off.
  std::vector<v1::StartFineTuneRequest> starts;
  size_t failing_starts = 0;  // The first ones are UNAVAILABLE.
  std::vector<uint64_t> after;
};

class ClientTest : public ::testing::Test {
 protected:
  // Before gRPC starts its threads.
  static void SetUpTestSuite() { BlockInterrupt(); }

  ClientTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&training_);
    server_ = builder.BuildAndStart();
    connection_.channel = server_->InProcessChannel({});
    options_.first_wait = absl::Milliseconds(1);
    options_.patience = absl::Milliseconds(20);
  }

  FakeTraining training_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  WatchOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(ClientTest, StartSaysHowToWatch) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  EXPECT_EQ(StartJob(connection_, request, false, options_, out_, err_), kDone);
  EXPECT_EQ(training_.starts[0].dataset(), "pets");
  EXPECT_FALSE(training_.starts[0].hyper_parameters().has_epochs());
  EXPECT_THAT(out_.str(), HasSubstr("finetune watch ft-1"));
}

TEST_F(ClientTest, StartThatGetsNoAnswerIsSentAgainUnderTheSameId) {
  training_.failing_starts = 2;
  EXPECT_EQ(StartJob(connection_, {}, false, options_, out_, err_), kDone);
  ASSERT_EQ(training_.starts.size(), 3u);
  const std::string id = training_.starts[0].request_id();
  EXPECT_THAT(id,
              ::testing::MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-"
                                      "[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
  EXPECT_EQ(training_.starts[2].request_id(), id);

  EXPECT_EQ(StartJob(connection_, {}, false, options_, out_, err_), kDone);
  EXPECT_NE(training_.starts[3].request_id(), id);
}

TEST_F(ClientTest, StartGivesUpAfterAFewTries) {
  training_.failing_starts = 100;
  EXPECT_EQ(StartJob(connection_, {}, false, options_, out_, err_),
            kUnreachable);
  EXPECT_EQ(training_.starts.size(), 4u);
}

TEST_F(ClientTest, OwnRequestIdIsKeptAndARefusalIsNotRepeated) {
  training_.start_status = absl::AlreadyExistsError("another body");
  v1::StartFineTuneRequest request;
  request.set_request_id("mine");
  EXPECT_EQ(StartJob(connection_, request, false, options_, out_, err_),
            kFailed);
  ASSERT_EQ(training_.starts.size(), 1u);
  EXPECT_EQ(training_.starts[0].request_id(), "mine");
}

TEST_F(ClientTest, ValidationPrintsThePlanAndWatchesNothing) {
  v1::StartFineTuneRequest request;
  request.set_validate_only(true);
  EXPECT_EQ(StartJob(connection_, request, true, options_, out_, err_), kDone);
  EXPECT_THAT(out_.str(), HasSubstr("Nothing was started"));
  EXPECT_THAT(training_.after, ::testing::IsEmpty());
}

TEST_F(ClientTest, RefusedStartIsAFailureAndSaysWhenToRetry) {
  training_.start_status = RetryAfter(
      absl::ResourceExhaustedError("16 jobs are waiting"), absl::Seconds(60));
  EXPECT_EQ(StartJob(connection_, {}, true, options_, out_, err_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: 16 jobs are waiting\nTry again in 60 s.\n");
}

TEST_F(ClientTest, BrokenWatchGoesOnWhereItWas) {
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
  EXPECT_THAT(training_.after, ::testing::ElementsAre(0, 1, 2));
}

TEST_F(ClientTest, WatchGivesUpOnAServerThatStaysAway) {
  training_.silent_after = 1;
  training_.answers = false;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kUnreachable);
  // It waited 1, 2, 4 and 8 ms; another 8 would be more than 20.
  EXPECT_EQ(training_.after.size(), 5u);
  EXPECT_THAT(err_.str(), HasSubstr("has gone (going away); trying again for "
                                    "20ms\n"));
}

TEST_F(ClientTest, WatchGoesOnHoweverItsStreamsEnd) {
  using grpc::StatusCode;
  for (const StatusCode code :
       {StatusCode::OK, StatusCode::CANCELLED, StatusCode::INTERNAL,
        StatusCode::UNKNOWN, StatusCode::UNAVAILABLE, StatusCode::ABORTED,
        StatusCode::RESOURCE_EXHAUSTED, StatusCode::DEADLINE_EXCEEDED}) {
    training_.watch_end = {code, "RST_STREAM"};
    training_.after.clear();
    EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
    EXPECT_THAT(training_.after, ::testing::ElementsAre(0, 1, 2)) << code;
  }
  EXPECT_EQ(err_.str(), "");
}

TEST_F(ClientTest, WatchGoesOnHoweverOftenStreamsEndWithoutNews) {
  for (const auto code :
       {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::INTERNAL}) {
    training_.watch_end = {code, "RST_STREAM"};
    training_.cut_streams = 10;  // Waits for more than the patience.
    EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
  }
  EXPECT_EQ(err_.str(), "");
}

TEST_F(ClientTest, EndOfAJobThatNoStreamSendsIsAskedForFromTheStart) {
  training_.silent_after = 1;  // As a server that lost the last numbers.
  training_.ends_at_once = true;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
  EXPECT_THAT(training_.after, ::testing::ElementsAre(0, 1, 0));
}

TEST_F(ClientTest, WatchEndsAtOnceWhereTheNextStreamWouldEndTheSame) {
  using grpc::StatusCode;
  training_.silent_after = 0;
  for (const StatusCode code :
       {StatusCode::NOT_FOUND, StatusCode::PERMISSION_DENIED,
        StatusCode::UNAUTHENTICATED, StatusCode::INVALID_ARGUMENT,
        StatusCode::UNIMPLEMENTED}) {
    training_.watch_end = {code, "no"};
    training_.after.clear();
    EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kFailed);
    EXPECT_EQ(training_.after.size(), 1u) << code;
  }
}

TEST_F(ClientTest, ServerThatGivesNoNewsInTimeIsUnreachableWhateverItSays) {
  training_.silent_after = 0;
  training_.answers = false;
  for (const auto& end :
       {grpc::Status::OK, grpc::Status(grpc::StatusCode::INTERNAL, "reset"),
        ToGrpcStatus(ShuttingDownError())}) {
    training_.watch_end = end;
    training_.after.clear();
    EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_),
              kUnreachable);
    EXPECT_EQ(training_.after.size(), 5u);
  }
}

TEST_F(ClientTest, JobThatWasJustStartedIsWaitedForBeforeItsFirstNews) {
  training_.answers = false;
  training_.cut_streams = 2;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kUnreachable);
  EXPECT_EQ(training_.after.size(), 1u);
  training_.cut_streams = 2;
  EXPECT_EQ(StartJob(connection_, {}, true, options_, out_, err_), kDone);
}

TEST_F(ClientTest, StreamThatBreaksAfterTheJobsEndIsNoFailure) {
  training_.last_is_ok = false;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
  EXPECT_EQ(training_.after.size(), 3u);
  EXPECT_THAT(err_.str(), ::testing::Not(HasSubstr("no answer")));
}

TEST_F(ClientTest, InterruptEndsAWaitForTheServerAndSaysHowToWatchAgain) {
  training_.interrupt = true;
  options_.first_wait = absl::Hours(1);
  options_.patience = absl::Hours(10);
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kInterrupted);
  EXPECT_THAT(err_.str(), HasSubstr("The job goes on"));
  EXPECT_THAT(err_.str(), HasSubstr("finetune watch ft-1"));
}

TEST_F(ClientTest, WatchJsonIsOneResponseALine) {
  connection_.json = true;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kDone);
  EXPECT_EQ(
      out_.str(),
      "{\"sequence\":\"1\",\"job\":{\"state\":\"JOB_STATE_RUNNING\"}}\n"
      "{\"sequence\":\"2\",\"job\":{\"state\":\"JOB_STATE_RUNNING\"}}\n"
      "{\"sequence\":\"3\",\"job\":{\"state\":\"JOB_STATE_SUCCEEDED\"}}\n");
}

TEST_F(ClientTest, FailedJobIsExitCodeOne) {
  training_.end_state = v1::JOB_STATE_FAILED;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kFailed);
  EXPECT_EQ(ShowJob(connection_, "ft-1", out_, err_), kFailed);
}

TEST_F(ClientTest, CancelledJobIsExitCodeOne) {
  training_.end_state = v1::JOB_STATE_CANCELLED;
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kFailed);
  EXPECT_EQ(ShowJob(connection_, "ft-1", out_, err_), kFailed);
  EXPECT_EQ(training_.after.size(), 3u);
}

TEST_F(ClientTest, UnknownJobIsExitCodeOne) {
  EXPECT_EQ(ShowJob(connection_, "ft-9", out_, err_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: no job \"ft-9\"\n");
}

TEST_F(ClientTest, JsonIsOneObjectALine) {
  connection_.json = true;
  EXPECT_EQ(StartJob(connection_, {}, false, options_, out_, err_), kDone);
  EXPECT_EQ(out_.str(), "{\"job\":{\"job_id\":\"ft-1\"}}\n");
}

TEST_F(ClientTest, DatasetWhoseNameGivesNoModelNameAsksForOne) {
  v1::StartFineTuneRequest request;
  for (const char* dataset :
       {"\xe7\x8a\xac", "/data/\xe7\x8a\xac\xe3\x81\xa8/", "a/---"}) {
    request.set_dataset(dataset);
    EXPECT_EQ(StartJob(connection_, request, false, options_, out_, err_),
              kUsage);
  }
  EXPECT_THAT(training_.starts, ::testing::IsEmpty());
  EXPECT_THAT(err_.str(), HasSubstr("choose one with --name\n"));
  request.set_model_name("dogs");
  EXPECT_EQ(StartJob(connection_, request, false, options_, out_, err_), kDone);
}

TEST_F(ClientTest, ServerThatIsNotThereIsExitCodeThree) {
  connection_.server = "127.0.0.1:1";
  ASSERT_THAT(Connect(connection_), IsOk());
  EXPECT_EQ(StartJob(connection_, {}, false, options_, out_, err_),
            kUnreachable);
  EXPECT_EQ(WatchJob(connection_, "ft-1", options_, out_, err_), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("no answer from 127.0.0.1:1"));
  EXPECT_THAT(err_.str(), HasSubstr("FINETUNE_SERVER"));
}

TEST(PrintErrorTest, RetryIsRoundedUpToWholeSeconds) {
  std::ostringstream err;
  PrintError(
      {},
      RetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(500)),
      err);
  EXPECT_EQ(err.str(), "finetune: full\nTry again in 1 s.\n");
}

TEST(PrintErrorTest, RequestIdHelpsToFindTheCallInTheServersLog) {
  absl::Status status = absl::NotFoundError("no such job");
  status.SetPayload("x-request-id", absl::Cord("4f2a"));
  std::ostringstream err;
  PrintError({}, status, err);
  EXPECT_EQ(
      err.str(),
      "finetune: no such job\nThe server's log has it as request 4f2a.\n");
}

TEST(PrintErrorTest, ControlCharactersAreEscaped) {
  std::ostringstream err;
  PrintError({}, absl::NotFoundError("no \"\x1b[2J\n\""), err);
  PrintError({}, absl::UnavailableError("\x1b[2J"), err);
  EXPECT_THAT(err.str(), HasSubstr("finetune: no \"\\x1b[2J\\n\"\n"));
  EXPECT_THAT(err.str(), HasSubstr(": \\x1b[2J\nIs finetuned running"));
}

TEST(PrintErrorTest, ErrorWithoutAMessageIsNamedByItsCode) {
  std::ostringstream err;
  PrintError({}, absl::UnimplementedError(""), err);
  EXPECT_EQ(err.str(), "finetune: UNIMPLEMENTED\n");
}

}  // namespace
}  // namespace finetune
