#include "server/service/training_service.h"

#include <cmath>
#include <functional>
#include <latch>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/grpc_status.h"
#include "common/rpc_status.h"
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

// Known to the server as an uploaded data set.
const std::string kUploadId(64, 'a');

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
    scheduler_.Start();
    stub_ = v1::TrainingService::NewStub(server_->InProcessChannel({}));
  }
  ~TrainingServiceTest() override { LetGo(); }

  // Calls a method and returns its status.
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response& response) {
    grpc::ClientContext context;
    return FromGrpcStatus(((*stub_).*method)(&context, request, &response));
  }
  absl::StatusOr<v1::FineTuneJob> Cancel(const std::string& job_id) {
    v1::CancelFineTuneRequest request;
    request.set_job_id(job_id);
    v1::CancelFineTuneResponse response;
    const absl::Status status =
        Call(&v1::TrainingService::Stub::CancelFineTune, request, response);
    if (!status.ok()) return status;
    return response.job();
  }
  absl::StatusOr<v1::FineTuneJob> Resume(const std::string& job_id) {
    v1::ResumeFineTuneRequest request;
    request.set_job_id(job_id);
    v1::ResumeFineTuneResponse response;
    const absl::Status status =
        Call(&v1::TrainingService::Stub::ResumeFineTune, request, response);
    if (!status.ok()) return status;
    return response.job();
  }
  absl::StatusOr<v1::ListFineTunesResponse> List(
      const v1::ListFineTunesRequest& request) {
    v1::ListFineTunesResponse response;
    const absl::Status status =
        Call(&v1::TrainingService::Stub::ListFineTunes, request, response);
    if (!status.ok()) return status;
    return response;
  }

  // Counts images, waits to be let go or stopped, and reports an epoch.
  absl::Status Train(const std::filesystem::path& job_dir,
                     const trainer::TrainerSpec& spec, const EventFn& on_event,
                     const std::stop_token& stop) {
    trainer::TrainerEvent event;
    event.mutable_dataset_stats()->set_train_images(7);
    on_event(event);
    if (spec.validate_only()) return absl::OkStatus();
    std::filesystem::create_directories(job_dir / "checkpoints/step-1");
    const std::stop_callback let_go(stop, [this] { LetGo(); });
    go_.wait();
    if (stop.stop_requested()) return absl::CancelledError("stopped");
    event.mutable_progress()->add_epochs()->set_epoch(1);
    on_event(event);
    return absl::OkStatus();
  }

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
  const std::unique_ptr<Database> database_ =
      *Database::Open(dir_.path() / "db");
  const std::unique_ptr<JobStore> store_ = *JobStore::Open(*database_);
  JobRunner runner_{
      dir_.path() / "jobs", trainer::TrainerSpec(), *store_,
      [this](const auto& job_dir, const auto& spec, const EventFn& on_event,
             const auto& stop) { return Train(job_dir, spec, on_event, stop); },
      [](const v1::FineTuneJob& job, const auto&) {
        Publication publication;
        publication.model.set_name(job.model_name());
        publication.model.set_version(1);
        return publication;
      }};
  Scheduler scheduler_{{}, *store_, runner_};
  absl::Status state_room_;
  const Authorizer authorizer_;  // Allows all.
  TrainingService service_{
      {.data_root = dir_.path() / "data",
       .pretrained = dir_.path() / "weights.pth",
       .find_upload =
           [this](const std::string& id) -> absl::StatusOr<UploadedDataset> {
         if (id != kUploadId) return NoSuchResourceError("dataset", id);
         return UploadedDataset{dir_.path() / "data/pets", "My Pets"};
       },
       .check_state_room = [this] { return state_room_; }},
      *store_,
      scheduler_,
      authorizer_};
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

TEST_F(TrainingServiceTest, UploadedDatasetIsFoundByItsId) {
  v1::StartFineTuneRequest request;
  request.set_dataset(kUploadId);
  const auto job = Start(request);
  // The store refuses it: there is no such row in this test's database.
  EXPECT_THAT(job, StatusIs(absl::StatusCode::kNotFound));
  request.set_validate_only(true);
  EXPECT_EQ(Start(request)->model_name(), "my-pets");
}

TEST_F(TrainingServiceTest, DatasetWhoseNameGivesNoModelNameNeedsOne) {
  dir_.Write("data/\xe7\x8c\xab/train/cat/1.jpg", "");
  dir_.Write("data/\xe7\x8c\xab/test/cat/1.jpg", "");
  v1::StartFineTuneRequest request;
  request.set_dataset("\xe7\x8c\xab");
  request.set_validate_only(true);
  const auto refused = Start(request);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("model_name"));
  request.set_model_name("cats");
  EXPECT_EQ(Start(request)->model_name(), "cats");
}

TEST_F(TrainingServiceTest, RepeatedRequestIdGivesTheSameJobOrIsRefused) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  request.set_request_id("3f0c");
  (*request.mutable_labels())["team"] = "a";
  (*request.mutable_labels())["run"] = "b";
  const auto first = Start(request);
  ASSERT_THAT(first, IsOk());
  std::filesystem::rename(dir_.path() / "data/pets", dir_.path() / "data/gone");
  EXPECT_EQ(Start(request)->job_id(), first->job_id());

  request.set_model_name("other");
  EXPECT_THAT(Start(request), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(TrainingServiceTest, ValidationAnswersWithTheScanAndStartsNothing) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  request.set_validate_only(true);
  const auto job = Start(request);
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->dataset_stats().train_images(), 7);
  EXPECT_EQ(job->hyper_parameters().epochs(), 5);
  EXPECT_EQ(job->job_id(), "");
  EXPECT_EQ(List({})->jobs_size(), 0);
}

TEST_F(TrainingServiceTest, WhatTheCallerSetIsEchoedAndOutOfRangeNamed) {
  v1::StartFineTuneRequest request;
  request.set_dataset("pets");
  request.set_hold_promotion(true);
  (*request.mutable_labels())["team"] = "a";
  request.mutable_max_run_duration()->set_seconds(60);
  const auto job = Start(request);
  ASSERT_THAT(job, IsOk());
  EXPECT_TRUE(job->hold_promotion());
  EXPECT_EQ(job->labels().at("team"), "a");
  EXPECT_EQ(job->max_run_duration().seconds(), 60);

  using R = v1::StartFineTuneRequest;
  const std::vector<std::pair<std::string, std::function<void(R&)>>> bad = {
      {"request_id", [](R& r) { r.set_request_id(std::string(129, 'x')); }},
      {"request_id", [](R& r) { r.set_request_id("a b"); }},
      {"labels", [](R& r) { (*r.mutable_labels())["A"] = ""; }},
      {"labels", [](R& r) { (*r.mutable_labels())[""] = ""; }},
      {"labels[",
       [](R& r) { (*r.mutable_labels())["a"] = std::string(257, 'x'); }},
      {"max_run_duration",
       [](R& r) { r.mutable_max_run_duration()->set_nanos(1); }},
      {"max_run_duration",
       [](R& r) { r.mutable_max_run_duration()->set_seconds(-5); }},
  };
  for (const auto& [field, set] : bad) {
    v1::StartFineTuneRequest request;
    request.set_dataset("pets");
    set(request);
    const auto refused = Start(request);
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument)) << field;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(field));
  }
}

TEST_F(TrainingServiceTest, FullStateFolderRefusesNewJobs) {
  state_room_ = absl::ResourceExhaustedError("full");
  EXPECT_THAT(StartPets(), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(TrainingServiceTest, JobIsCancelledResumedAndEnds) {
  const auto job = StartPets();
  ASSERT_THAT(job, IsOk());
  EXPECT_THAT(Resume(job->job_id()), StatusIs(absl::StatusCode::kAborted));
  // Not before it runs: a job cancelled in the queue has no checkpoint.
  grpc::ClientContext context;
  v1::WatchProgressRequest watch;
  watch.set_job_id(job->job_id());
  const auto reader = stub_->WatchProgress(&context, watch);
  v1::WatchProgressResponse latest;
  while (reader->Read(&latest) &&
         latest.job().state() != v1::JOB_STATE_RUNNING) {
  }
  ASSERT_THAT(Cancel(job->job_id()), IsOk());
  while (reader->Read(&latest)) {
  }
  EXPECT_THAT(FromGrpcStatus(reader->Finish()), IsOk());
  EXPECT_EQ(latest.job().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Cancel(job->job_id())->state(), v1::JOB_STATE_CANCELLED);

  ASSERT_THAT(Resume(job->job_id()), IsOk());
  absl::Status status;
  EXPECT_EQ(
      Watch(job->job_id(), latest.sequence(), &status).back().job().state(),
      v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(Resume(job->job_id()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  for (const auto& missing : {Cancel("ft-x"), Resume("ft-x")}) {
    EXPECT_THAT(missing, StatusIs(absl::StatusCode::kNotFound));
  }
}

TEST_F(TrainingServiceTest, ListIsPagedAndFilteredAndChecked) {
  for (int i = 0; i < 3; ++i) ASSERT_THAT(StartPets(), IsOk());
  v1::ListFineTunesRequest request;
  request.set_page_size(2);
  const auto first = List(request);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->jobs_size(), 2);
  request.set_page_token(first->next_page_token());
  const auto second = List(request);
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(second->jobs_size(), 1);
  EXPECT_EQ(second->next_page_token(), "");

  v1::ListFineTunesRequest failed;
  failed.add_states(v1::JOB_STATE_FAILED);
  EXPECT_EQ(List(failed)->jobs_size(), 0);

  using R = v1::ListFineTunesRequest;
  const std::vector<std::function<void(R&)>> bad = {
      [](R& r) { r.set_page_size(-1); },
      [](R& r) { r.set_page_size(101); },
      [](R& r) { r.set_page_token("x'; DROP TABLE jobs"); },
      [](R& r) { r.add_states(static_cast<v1::JobState>(99)); },
      [](R& r) { r.add_states(v1::JOB_STATE_UNSPECIFIED); },
  };
  for (const auto& set : bad) {
    v1::ListFineTunesRequest wrong;
    set(wrong);
    EXPECT_THAT(List(wrong), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace finetune
