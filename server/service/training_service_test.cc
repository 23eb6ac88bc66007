#include "server/service/training_service.h"

#include <cmath>
#include <functional>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

// The real service, store and scheduler, over a channel that needs no port;
// only training is fake: it waits to be let go, then reports an epoch.
class TrainingServiceTest : public ::testing::Test {
 protected:
  TrainingServiceTest() {
    dir_.Write("data/pets/train/cat/1.jpg", "");
    dir_.Write("weights.pth", "");
    std::filesystem::create_directory_symlink("/etc", dir_.path() / "data/out");
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::TrainingService::NewStub(server_->InProcessChannel({}));
  }
  ~TrainingServiceTest() override { LetGo(); }

  void LetGo() {
    if (!go_.try_wait()) go_.count_down();
  }

  absl::StatusOr<v1::FineTuneJob> Start(
      const v1::StartFineTuneRequest& request) {
    grpc::ClientContext context;
    v1::StartFineTuneResponse response;
    const grpc::Status status =
        stub_->StartFineTune(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response.job();
  }
  absl::StatusOr<v1::FineTuneJob> StartPets() {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    return Start(request);
  }

  // All that a watcher gets, and the stream's status.
  std::vector<v1::WatchProgressResponse> Watch(const std::string& job_id,
                                               uint64_t after,
                                               absl::Status* status) {
    grpc::ClientContext context;
    v1::WatchProgressRequest request;
    request.set_job_id(job_id);
    request.set_after_sequence(after);
    const auto reader = stub_->WatchProgress(&context, request);
    std::vector<v1::WatchProgressResponse> all;
    v1::WatchProgressResponse response;
    while (reader->Read(&response)) {
      all.push_back(response);
      LetGo();
    }
    *status = FromGrpcStatus(reader->Finish());
    return all;
  }

  const TempDir dir_;
  std::latch go_{1};
  JobStore store_;
  Scheduler scheduler_{
      {.jobs_dir = dir_.path() / "jobs"},
      store_,
      [this](const auto&, const auto&, const EventFn& on_event, const auto&) {
        go_.wait();
        trainer::TrainerEvent event;
        event.mutable_progress()->add_epochs()->set_epoch(1);
        on_event(event);
        return absl::OkStatus();
      },
      [](const v1::FineTuneJob& job, const auto&) {
        v1::ModelRef ref;
        ref.set_name(job.model_name());
        ref.set_version(1);
        return absl::StatusOr<v1::ModelRef>(ref);
      }};
  TrainingService service_{{.data_root = dir_.path() / "data",
                            .pretrained = dir_.path() / "weights.pth"},
                           store_,
                           scheduler_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::TrainingService::Stub> stub_;
};

TEST_F(TrainingServiceTest, EveryDefaultIsResolvedAndEchoed) {
  const auto job = StartPets();
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->model_name(), "pets");
  const v1::HyperParameters& used = job->hyper_parameters();
  EXPECT_DOUBLE_EQ(used.learning_rate(), 0.01);
  EXPECT_DOUBLE_EQ(used.head_learning_rate(), 0.1);
  EXPECT_DOUBLE_EQ(used.weight_decay(), 0.001);
  EXPECT_DOUBLE_EQ(used.momentum(), 0);
  EXPECT_EQ(used.batch_size(), 64);
  EXPECT_EQ(used.epochs(), 5);
  EXPECT_TRUE(used.has_seed());
  EXPECT_FALSE(used.from_scratch());
}

TEST_F(TrainingServiceTest, HeadLearnsTenTimesFasterThanWhatIsAsked) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  request.mutable_hyper_parameters()->set_learning_rate(0.002);
  request.mutable_hyper_parameters()->set_seed(0);
  const auto job = Start(request);
  ASSERT_THAT(job, IsOk());
  EXPECT_DOUBLE_EQ(job->hyper_parameters().head_learning_rate(), 0.02);
  EXPECT_EQ(job->hyper_parameters().seed(), 0u);
}

TEST_F(TrainingServiceTest, FieldOutOfItsRangeIsNamed) {
  using P = v1::HyperParameters;
  const std::vector<std::pair<std::string, std::function<void(P&)>>> bad = {
      {"learning_rate", [](P& p) { p.set_learning_rate(0); }},
      {"learning_rate", [](P& p) { p.set_learning_rate(-1); }},
      {"learning_rate", [](P& p) { p.set_learning_rate(NAN); }},
      {"head_learning_rate", [](P& p) { p.set_head_learning_rate(1e9); }},
      {"weight_decay", [](P& p) { p.set_weight_decay(-0.1); }},
      {"momentum", [](P& p) { p.set_momentum(1); }},
      {"batch_size", [](P& p) { p.set_batch_size(0); }},
      {"batch_size", [](P& p) { p.set_batch_size(1025); }},
      {"epochs", [](P& p) { p.set_epochs(-3); }},
  };
  for (const auto& [field, set] : bad) {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    set(*request.mutable_hyper_parameters());
    const auto job = Start(request);
    ASSERT_THAT(job, StatusIs(absl::StatusCode::kInvalidArgument)) << field;
    EXPECT_THAT(std::string(job.status().message()),
                HasSubstr("hyper_parameters." + field + " must be"));
    EXPECT_TRUE(job.status()
                    .GetPayload("type.googleapis.com/google.rpc.BadRequest")
                    .has_value());
  }
}

TEST_F(TrainingServiceTest, DatasetOutsideOfTheDataRootIsDenied) {
  for (const char* dataset : {"/etc", "../weights.pth", "pets/../..", "out"}) {
    v1::StartFineTuneRequest request;
    request.set_dataset(dataset);
    EXPECT_THAT(Start(request), StatusIs(absl::StatusCode::kPermissionDenied))
        << dataset;
  }
}

TEST_F(TrainingServiceTest, DatasetMayBeAbsoluteWithinTheDataRoot) {
  v1::StartFineTuneRequest request;
  request.set_dataset(dir_.path() / "data/pets");
  EXPECT_THAT(Start(request), IsOk());
}

TEST_F(TrainingServiceTest, MissingDatasetIsNotFoundAndEmptyIsInvalid) {
  v1::StartFineTuneRequest request;
  EXPECT_THAT(Start(request), StatusIs(absl::StatusCode::kInvalidArgument));
  request.set_dataset("none");
  const auto job = Start(request);
  EXPECT_THAT(job, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(job.status()
                  .GetPayload("type.googleapis.com/google.rpc.ResourceInfo")
                  .has_value());
}

TEST_F(TrainingServiceTest, BadModelNameIsInvalid) {
  for (const std::string& name :
       std::vector<std::string>{"Cats", "a/b", "..", std::string(64, 'a')}) {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    request.set_model_name(name);
    EXPECT_THAT(Start(request), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(TrainingServiceTest, MissingWeightsAreAPreconditionUnlessFromScratch) {
  std::filesystem::remove(dir_.path() / "weights.pth");
  const auto job = StartPets();
  EXPECT_THAT(job, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(job.status().message()), HasSubstr("--pretrained"));

  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  request.mutable_hyper_parameters()->set_from_scratch(true);
  EXPECT_THAT(Start(request), IsOk());
}

TEST_F(TrainingServiceTest, ProgressIsASnapshotAndUnknownJobsAreNotFound) {
  const auto job = StartPets();
  grpc::ClientContext context;
  v1::GetProgressRequest request;
  request.set_job_id(job->job_id());
  v1::GetProgressResponse response;
  EXPECT_THAT(FromGrpcStatus(stub_->GetProgress(&context, request, &response)),
              IsOk());
  EXPECT_EQ(response.job().job_id(), job->job_id());

  grpc::ClientContext second;
  request.set_job_id("ft-none");
  EXPECT_THAT(FromGrpcStatus(stub_->GetProgress(&second, request, &response)),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(TrainingServiceTest, WatchEndsWithTheJobAndGrowsInSequence) {
  const auto job = StartPets();
  absl::Status status;
  const auto all = Watch(job->job_id(), 0, &status);
  EXPECT_THAT(status, IsOk());
  ASSERT_GE(all.size(), 2u);
  for (size_t i = 1; i < all.size(); ++i) {
    EXPECT_GT(all[i].sequence(), all[i - 1].sequence());
  }
  EXPECT_EQ(all.back().job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(all.back().job().progress().epochs_size(), 1);

  // Who has the end already gets no repeat; who misses only it gets it.
  EXPECT_TRUE(Watch(job->job_id(), all.back().sequence(), &status).empty());
  EXPECT_THAT(status, IsOk());
  EXPECT_EQ(Watch(job->job_id(), all.back().sequence() - 1, &status).size(),
            1u);
}

TEST_F(TrainingServiceTest, WatchOfAnUnknownJobIsNotFound) {
  absl::Status status;
  EXPECT_TRUE(Watch("ft-none", 0, &status).empty());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(TrainingServiceTest, WatcherThatLeavesIsForgotten) {
  const auto job = StartPets();
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    v1::WatchProgressRequest request;
    request.set_job_id(job->job_id());
    const auto reader = stub_->WatchProgress(&context, request);
    v1::WatchProgressResponse response;
    ASSERT_TRUE(reader->Read(&response));
    context.TryCancel();
    reader->Finish();
  }
  absl::Status status;
  EXPECT_EQ(Watch(job->job_id(), 0, &status).back().job().state(),
            v1::JOB_STATE_SUCCEEDED);
}

}  // namespace
}  // namespace finetune
