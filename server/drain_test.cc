// How the server's process ends when it is told to.

#include <signal.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/file.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/dataset_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/testing/server_process.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::ServerProcess;
using testing::TempDir;
using HealthStatus = grpc::health::v1::HealthCheckResponse;

class DrainTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Clients without a call do not look at what the server sends.
    setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "0", 1);
  }

  void StartServer(const std::string& drain_timeout) {
    server_ = std::make_unique<ServerProcess>(
        std::vector<std::string>{
            FINETUNE_SERVER_BINARY, "--address", "127.0.0.1:0", "--state_dir",
            dir_.path() / "state", "--data_root", dir_.path(), "--device",
            "cpu", "--drain_timeout", drain_timeout},
        std::vector<std::string>{}, log_);
    ASSERT_NE(server_->channel(), nullptr) << Log();
  }

  std::string Log() { return *ReadFile(log_, 1 << 20); }

  // Begins an upload, which then goes on until it is ended.
  void BeginUpload() {
    const auto stub = v1::DatasetService::NewStub(server_->channel());
    upload_ = stub->UploadDataset(&context_, &response_);
    v1::UploadDatasetRequest first;
    first.mutable_header()->set_name("pets");
    first.mutable_header()->set_sha256(std::string(64, '0'));
    ASSERT_TRUE(upload_->Write(first));
    // Answered on the same connection: the upload has arrived, too.
    grpc::ClientContext list;
    ListDatasets(list);
  }

  void ListDatasets(grpc::ClientContext& context) {
    v1::ListDatasetsResponse listed;
    ASSERT_TRUE(v1::DatasetService::NewStub(server_->channel())
                    ->ListDatasets(&context, {}, &listed)
                    .ok());
  }

  const TempDir dir_;
  const std::string log_ = dir_.path() / "server.log";
  std::unique_ptr<ServerProcess> server_;
  grpc::ClientContext context_;
  v1::UploadDatasetResponse response_;
  std::unique_ptr<grpc::ClientWriter<v1::UploadDatasetRequest>> upload_;
};

TEST_F(DrainTest, WatcherOfHealthHearsOfItAndDoesNotHoldItUp) {
  StartServer("600");
  const auto stub = grpc::health::v1::Health::NewStub(server_->channel());
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("finetune.v1.TrainingService");
  const auto watch = stub->Watch(&context, request);
  HealthStatus status;
  ASSERT_TRUE(watch->Read(&status));
  EXPECT_EQ(status.status(), HealthStatus::SERVING);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60));
  while (watch->Read(&status)) {
  }
  EXPECT_EQ(status.status(), HealthStatus::NOT_SERVING);
}

TEST_F(DrainTest, StreamThatDoesNotEndIsCutOffAtTheTimeout) {
  StartServer("1");
  ASSERT_NO_FATAL_FAILURE(BeginUpload());
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_FALSE(upload_->Finish().ok());
  EXPECT_THAT(Log(), HasSubstr("1 calls were cut off"));
}

TEST_F(DrainTest, ClientThatDoesNothingDoesNotHoldItUp) {
  StartServer("600");
  grpc::ClientContext context;
  ASSERT_NO_FATAL_FAILURE(ListDatasets(context));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));  // gRPC waits for 20.
}

TEST_F(DrainTest, SecondSignalEndsItAtOnce) {
  StartServer("600");
  ASSERT_NO_FATAL_FAILURE(BeginUpload());
  kill(server_->pid(), SIGTERM);
  // Two that wait together are one; the first is under way when the server
  // says goodbye to the connection.
  grpc_connectivity_state state = server_->channel()->GetState(false);
  while (state == GRPC_CHANNEL_READY) {
    server_->channel()->WaitForStateChange(
        state, std::chrono::system_clock::now() + std::chrono::seconds(30));
    state = server_->channel()->GetState(false);
  }
  EXPECT_EQ(server_->Terminate(), 128 + SIGTERM);
  context_.TryCancel();
  upload_->Finish();
}

TEST_F(DrainTest, LogIsJsonAndNamesTheCalls) {
  StartServer("10");
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "find-me");
  ASSERT_NO_FATAL_FAILURE(ListDatasets(context));
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_THAT(Log(), HasSubstr("\"level\":\"info\",\"message\":\"call\","
                               "\"request_id\":\"find-me\",\"method\":"
                               "\"finetune.v1.DatasetService/ListDatasets\","
                               "\"code\":\"OK\""));
}

}  // namespace
}  // namespace finetune
