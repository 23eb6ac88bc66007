// What the whole server tells those who watch it while it drains, and when it
// cannot go on. Its forward passes are told by the test, through a FIFO, how
// they end (server/testing/told_predictor.cc): no CUDA device is needed.

#include <signal.h>
#include <sys/stat.h>

#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "inference/open_inference.grpc.pb.h"
#include "server/testing/pictures.h"
#include "server/testing/random_model.h"
#include "server/testing/server_process.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::ServerProcess;
using testing::StatusIs;
using testing::TempDir;
using HealthStatus = grpc::health::v1::HealthCheckResponse;

class HealthTest : public ::testing::Test {
 protected:
  HealthTest() {
    EXPECT_EQ(mkfifo(fifo_.c_str(), 0600), 0);
    EXPECT_THAT(
        testing::WriteRandomModel(dir_.path() / "state/models", "pets", 1),
        IsOk());
    server_ = std::make_unique<ServerProcess>(
        std::vector<std::string>{
            FINETUNE_TOLD_SERVER_BINARY, "--address", "127.0.0.1:0",
            "--state_dir", dir_.path() / "state", "--data_root", dir_.path(),
            "--device", "cpu", "--drain_timeout", "600"},
        std::vector<std::string>{"FORWARD_FIFO=" + fifo_}, log_);
  }

  void SetUp() override {
    ASSERT_NE(server_->channel(), nullptr) << Log();
    grpc::health::v1::HealthCheckRequest request;
    request.set_service("finetune.v1.InferenceService");
    watch_ = grpc::health::v1::Health::NewStub(server_->channel())
                 ->Watch(&watch_context_, request);
    ASSERT_EQ(NextHealth(), HealthStatus::SERVING);
    ASSERT_TRUE(IsReady());
  }

  std::string Log() { return *ReadFile(log_, 1 << 20); }

  HealthStatus::ServingStatus NextHealth() {
    HealthStatus status;
    return watch_->Read(&status) ? status.status() : HealthStatus::UNKNOWN;
  }

  // As a probe sees it, on a connection of its own.
  bool IsReady() {
    grpc::ClientContext context;
    inference::ServerReadyResponse response;
    return inference::GRPCInferenceService::NewStub(server_->Connect())
               ->ServerReady(&context, {}, &response)
               .ok() &&
           response.ready();
  }

  std::future<absl::Status> Classify() {
    return std::async(std::launch::async, [this] {
      v1::ClassifyRequest request;
      request.add_images(testing::Image("rgb.png"));
      v1::ClassifyResponse response;
      grpc::ClientContext context;
      return FromGrpcStatus(v1::InferenceService::NewStub(server_->channel())
                                ->Classify(&context, request, &response));
    });
  }

  const TempDir dir_;
  const std::string log_ = dir_.path() / "server.log";
  const std::string fifo_ = dir_.path() / "fifo";
  std::unique_ptr<ServerProcess> server_;
  grpc::ClientContext watch_context_;
  std::unique_ptr<grpc::ClientReader<HealthStatus>> watch_;
};

TEST_F(HealthTest, DrainingServerIsNotReadyWhileItAnswersWhatIsInFlight) {
  std::future<absl::Status> answer = Classify();
  std::ofstream forward(fifo_);  // Opens when the forward pass has.
  kill(server_->pid(), SIGTERM);
  EXPECT_EQ(NextHealth(), HealthStatus::NOT_SERVING);
  EXPECT_FALSE(IsReady());
  EXPECT_TRUE(server_->IsRunning());
  forward << std::endl;
  EXPECT_THAT(answer.get(), IsOk());
  EXPECT_EQ(server_->Wait(), 0);
}

TEST_F(HealthTest, CudaErrorThatStaysEndsTheProcessWithAnError) {
  std::future<absl::Status> answer = Classify();
  std::ofstream(fifo_) << "CUDA error: an illegal memory access\n";
  EXPECT_THAT(answer.get(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_EQ(NextHealth(), HealthStatus::NOT_SERVING);
  EXPECT_EQ(server_->Wait(), 1);
  EXPECT_THAT(Log(), HasSubstr("cannot go on: CUDA error: an illegal memory"));
}

TEST_F(HealthTest, LackOfCudaMemoryFailsTheCallAndNoMore) {
  std::future<absl::Status> answer = Classify();
  std::ofstream(fifo_) << "CUDA error: out of memory\n";
  EXPECT_THAT(answer.get(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_TRUE(IsReady());
  answer = Classify();
  std::ofstream(fifo_) << std::endl;
  EXPECT_THAT(answer.get(), IsOk());
  EXPECT_EQ(server_->Terminate(), 0);
}

}  // namespace
}  // namespace finetune
