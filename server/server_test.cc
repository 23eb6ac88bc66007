#include "server/server.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/model/model_file.h"
#include "server/testing/http_get.h"
#include "server/testing/pictures.h"

// The whole server over a real port, with real trainer processes: small
// pictures, from scratch.

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Image;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;
using HealthStatus = grpc::health::v1::HealthCheckResponse;

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    for (const char* split : {"train", "test"}) {
      dir_.Write(fs::path("data/pets") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/pets") / split / "dog/1.png", Image("rgb.png"));
    }
    dir_.Write("data/pets/train/dog/notes.txt", "no image");
    options_.address = "127.0.0.1:0";
    options_.state_dir = dir_.path() / "state";
    options_.data_root = dir_.path() / "data";
    options_.device = "cpu";
    options_.trainer = FINETUNE_TRAINER;
    options_.trainer_priority = "normal";  // Or other tests starve it.
    StartServer();
  }

  void StartServer() {
    server_.reset();
    auto server = Server::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address(),
                                   grpc::InsecureChannelCredentials());
  }

  // Starts a job from scratch and returns its watch's request.
  v1::WatchProgressRequest StartJob(v1::TrainingService::Stub& stub,
                                    const std::string& dataset, int epochs) {
    v1::StartFineTuneRequest request;
    request.set_dataset(dataset);
    request.mutable_hyper_parameters()->set_epochs(epochs);
    request.mutable_hyper_parameters()->set_from_scratch(true);
    v1::StartFineTuneResponse started;
    grpc::ClientContext context;
    EXPECT_THAT(FromGrpcStatus(stub.StartFineTune(&context, request, &started)),
                IsOk());
    v1::WatchProgressRequest watch;
    watch.set_job_id(started.job().job_id());
    return watch;
  }

  // Starts a job on `dataset` and follows it to its end.
  v1::FineTuneJob RunJob(const std::string& dataset) {
    const auto stub = v1::TrainingService::NewStub(channel_);
    return Follow(*stub, StartJob(*stub, dataset, 2));
  }

  v1::FineTuneJob Follow(v1::TrainingService::Stub& stub,
                         const v1::WatchProgressRequest& watch) {
    grpc::ClientContext context;
    const auto reader = stub.WatchProgress(&context, watch);
    v1::WatchProgressResponse latest;
    while (reader->Read(&latest)) {
    }
    EXPECT_THAT(FromGrpcStatus(reader->Finish()), IsOk());
    return latest.job();
  }

  absl::StatusOr<v1::ClassifyResponse> Classify(const std::string& image) {
    v1::ClassifyRequest request;
    request.add_images(image);
    v1::ClassifyResponse response;
    grpc::ClientContext context;
    const absl::Status status =
        FromGrpcStatus(v1::InferenceService::NewStub(channel_)->Classify(
            &context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  HealthStatus::ServingStatus Health(const std::string& service) {
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    HealthStatus response;
    grpc::ClientContext context;
    EXPECT_THAT(
        FromGrpcStatus(grpc::health::v1::Health::NewStub(channel_)->Check(
            &context, request, &response)),
        IsOk());
    return response.status();
  }

  const TempDir dir_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServerTest, JobBecomesAModelThatIsServedAlsoAfterARestart) {
  EXPECT_THAT(Classify(Image("rgb.png")),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::NOT_SERVING);
  EXPECT_EQ(Health("finetune.v1.TrainingService"), HealthStatus::SERVING);

  const v1::FineTuneJob job = RunJob("pets");
  ASSERT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.ShortDebugString();
  EXPECT_EQ(job.progress().epochs_size(), 2);
  EXPECT_EQ(job.dataset_stats().skipped(0).path(), "train/dog/notes.txt");
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::SERVING);

  const auto before = Classify(Image("rgb.png"));
  ASSERT_THAT(before, IsOk());
  EXPECT_EQ(before->model().name(), "pets");
  EXPECT_EQ(before->results(0).scores_size(), 2);

  StartServer();
  const auto after = Classify(Image("rgb.png"));
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->model().version(), 1);
  EXPECT_EQ(after->results(0).SerializeAsString(),
            before->results(0).SerializeAsString());
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::SERVING);
}

TEST_F(ServerTest, WeightsThatWereDamagedOnDiskAreNotServed) {
  ASSERT_EQ(RunJob("pets").state(), v1::JOB_STATE_SUCCEEDED);
  const fs::path file = options_.state_dir / "models/pets/1" / kWeightsFile;
  fs::copy_file(file, dir_.path() / "whole");
  {
    // Zeros among the tensors: a file that can be read, of another model.
    std::fstream weights(file, std::ios::binary | std::ios::in | std::ios::out);
    weights.seekp(20 << 20);
    weights << std::string(3 << 20, '\0');
    ASSERT_TRUE(weights.good());
  }
  StartServer();
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::NOT_SERVING);
  EXPECT_THAT(Classify(Image("rgb.png")),
              StatusIs(absl::StatusCode::kDataLoss));
  v1::DownloadModelRequest request;
  request.mutable_model()->set_name("pets");
  request.set_format(v1::MODEL_FORMAT_ONNX);
  grpc::ClientContext context;
  const auto download =
      v1::ModelService::NewStub(channel_)->DownloadModel(&context, request);
  v1::DownloadModelResponse chunk;
  while (download->Read(&chunk)) {
  }
  EXPECT_THAT(FromGrpcStatus(download->Finish()),
              StatusIs(absl::StatusCode::kDataLoss));

  // Put back, they are served, and health says so.
  fs::rename(dir_.path() / "whole", file);
  EXPECT_THAT(Classify(Image("rgb.png")), IsOk());
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::SERVING);
}

TEST_F(ServerTest, PromotionsUnderLoadFailNoRequest) {
  const auto training = v1::TrainingService::NewStub(channel_);
  ASSERT_EQ(Follow(*training, StartJob(*training, "pets", 1)).state(),
            v1::JOB_STATE_SUCCEEDED);
  ASSERT_EQ(Follow(*training, StartJob(*training, "pets", 1)).state(),
            v1::JOB_STATE_SUCCEEDED);
  std::atomic<bool> ends = false;
  std::atomic<int> wrong = 0;
  std::jthread caller([&] {
    while (!ends) {
      const auto answer = Classify(Image("rgb.png"));
      if (!answer.ok() || answer->model().name() != "pets") ++wrong;
    }
  });
  const auto models = v1::ModelService::NewStub(channel_);
  for (int i = 0; i < 10; ++i) {
    v1::PromoteModelRequest request;
    request.mutable_model()->set_name("pets");
    request.mutable_model()->set_version(1 + i % 2);
    v1::PromoteModelResponse response;
    grpc::ClientContext context;
    ASSERT_THAT(
        FromGrpcStatus(models->PromoteModel(&context, request, &response)),
        IsOk());
    EXPECT_EQ(Classify(Image("rgb.png"))->model().version(), 1 + i % 2);
  }
  ends = true;
  caller.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(Health("finetune.v1.InferenceService"), HealthStatus::SERVING);
}

TEST_F(ServerTest, DatasetThatCannotBeTrainedOnFailsItsJobWithTheReason) {
  dir_.Write("data/lonely/train/cat/1.jpg", Image("landscape_420.jpg"));
  dir_.Write("data/lonely/test/cat/1.jpg", Image("landscape_420.jpg"));
  const v1::FineTuneJob job = RunJob("lonely");
  EXPECT_EQ(job.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.error().code(),
            static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(job.error().message(), HasSubstr("at least 2 are needed"));
  EXPECT_EQ(job.error().details_size(), 1);
}

TEST_F(ServerTest, SecondServerOnTheSameStateIsRefused) {
  const auto second = Server::Start(options_);
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("another finetuned uses"));
}

TEST_F(ServerTest, AddressThatIsTakenIsRefused) {
  ServerOptions other = options_;
  other.state_dir = dir_.path() / "other";
  other.address = server_->address();
  EXPECT_THAT(Server::Start(other), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, CudaWhereThereIsNoneIsRefused) {
  ServerOptions other = options_;
  other.state_dir = dir_.path() / "other";
  other.device = "cuda:99";
  EXPECT_THAT(Server::Start(other),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ServerTest, ShutdownAnswersOrRefusesEveryCallAndLosesNone) {
  ASSERT_EQ(RunJob("pets").state(), v1::JOB_STATE_SUCCEEDED);
  std::atomic<int> answered = 0;
  std::vector<std::jthread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      absl::StatusOr<v1::ClassifyResponse> response;
      while ((response = Classify(Image("rgb.png"))).ok()) ++answered;
      EXPECT_THAT(response, StatusIs(absl::StatusCode::kUnavailable));
    });
  }
  while (answered < 8) std::this_thread::yield();
  server_->Shutdown();
}

TEST_F(ServerTest, MetricsTellOfCallsAndJobs) {
  options_.metrics_address = "127.0.0.1:0";
  StartServer();
  EXPECT_THAT(Classify("x"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(RunJob("pets").state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(Classify(Image("rgb.png")), IsOk());
  const std::string answer =
      testing::HttpGet(server_->metrics_address(), "/metrics");
  for (const char* line :
       {"finetune_requests_total{code=\"FAILED_PRECONDITION\",method="
        "\"finetune."
        "v1.InferenceService/Classify\"} 1",
        "finetune_requests_total{code=\"OK\",method=\"finetune."
        "v1.InferenceService/Classify\"} 1",
        "finetune_classify_compute_seconds_count 1",
        "finetune_model_promotions_total 1",
        "finetune_jobs{state=\"succeeded\"} 1"}) {
    EXPECT_THAT(answer, HasSubstr(line));
  }
}

TEST_F(ServerTest, MetricsForOtherMachinesMustBeAskedForTwice) {
  ServerOptions other = options_;
  other.state_dir = dir_.path() / "other";
  other.metrics_address = "0.0.0.0:0";
  const auto refused = Server::Start(other);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("--insecure_bind"));
  other.insecure_bind = true;
  EXPECT_THAT(Server::Start(other), IsOk());
}

TEST_F(ServerTest, RunningAndQueuedJobsGoOnAfterARestart) {
  const auto stub = v1::TrainingService::NewStub(channel_);
  v1::WatchProgressRequest watch = StartJob(*stub, "pets", 8);
  const v1::WatchProgressRequest second = StartJob(*stub, "pets", 1);
  v1::WatchProgressResponse latest;
  {
    grpc::ClientContext context;
    const auto reader = stub->WatchProgress(&context, watch);
    while (reader->Read(&latest) && latest.job().progress().step() < 1) {
    }
    server_->Shutdown();
    while (reader->Read(&latest)) {
    }
    EXPECT_THAT(FromGrpcStatus(reader->Finish()),
                StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_FALSE(latest.job().has_end_time());
  }
  StartServer();
  const auto restarted = v1::TrainingService::NewStub(channel_);
  watch.set_after_sequence(latest.sequence());
  EXPECT_EQ(Follow(*restarted, watch).state(), v1::JOB_STATE_SUCCEEDED);
  const v1::FineTuneJob after = Follow(*restarted, second);
  EXPECT_EQ(after.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(after.model().version(), 2);
}

}  // namespace
}  // namespace finetune
