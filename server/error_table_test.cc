// Every row of the README's error table, against a running server: the code and
// the detail.

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/grpc_status.h"
#include "common/request_parser.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/dataset_service.grpc.pb.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "server/testing/pictures.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Image;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

constexpr char kAdmin[] = "Bearer admin-0123456789abcdef";
constexpr char kClassify[] = "Bearer classify-0123456789abcdef";

MATCHER_P2(IsError, code, detail,
           "has code " + absl::StatusCodeToString(code) + " and " + detail) {
  const absl::Status& status = testing::StatusOf(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         (std::string(detail).empty() ||
          status
              .GetPayload(std::string("type.googleapis.com/google.rpc.") +
                          detail)
              .has_value());
}

class ErrorTableTest : public ::testing::Test {
 protected:
  ErrorTableTest() {
    for (const char* split : {"train", "test"}) {
      dir_.Write(fs::path("data/pets") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/pets") / split / "dog/1.png", Image("rgb.png"));
      dir_.Write(fs::path("data/lonely") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/empty") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/unreadable") / split / "cat/1.jpg",
                 Image("landscape_420.jpg"));
      dir_.Write(fs::path("data/unreadable") / split / "dog/1.jpg", "no image");
      fs::create_directories(dir_.path() / "data/empty" / split / "dog");
    }
    options_.address = "127.0.0.1:0";
    options_.state_dir = dir_.path() / "state";
    options_.data_root = dir_.path() / "data";
    options_.pretrained = dir_.path() / "no-weights.pth";
    options_.device = "cpu";
    options_.trainer = FINETUNE_TRAINER;
    options_.trainer_priority = "normal";  // Or other tests starve it.
    options_.token_file = dir_.Write("tokens",
                                     "admin admin-0123456789abcdef\n"
                                     "classify classify-0123456789abcdef\n");
    options_.max_queued_jobs = 1;
    Serve();
  }

  void Serve() {
    server_.reset();
    auto server = Server::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    const auto channel = grpc::CreateChannel(
        server_->address(), grpc::InsecureChannelCredentials());
    training_ = v1::TrainingService::NewStub(channel);
    inference_ = v1::InferenceService::NewStub(channel);
    datasets_ = v1::DatasetService::NewStub(channel);
    models_ = v1::ModelService::NewStub(channel);
  }

  // Calls `method` with `token` as the caller's.
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                 const Request&, Response*),
                    const Request& request, Response& response,
                    const std::string& token = kAdmin) {
    grpc::ClientContext context;
    if (!token.empty()) context.AddMetadata("authorization", token);
    if (deadline_.count() > 0) {
      context.set_deadline(std::chrono::system_clock::now() + deadline_);
    }
    return FromGrpcStatus((stub.*method)(&context, request, &response));
  }

  v1::StartFineTuneRequest Request(const std::string& dataset) {
    v1::StartFineTuneRequest request;
    request.set_dataset(dataset);
    request.mutable_hyper_parameters()->set_from_scratch(true);
    request.mutable_hyper_parameters()->set_epochs(1);
    return request;
  }
  absl::StatusOr<v1::FineTuneJob> Start(const v1::StartFineTuneRequest& request,
                                        const std::string& token = kAdmin) {
    v1::StartFineTuneResponse response;
    const absl::Status status =
        Call(*training_, &v1::TrainingService::Stub::StartFineTune, request,
             response, token);
    if (!status.ok()) return status;
    return response.job();
  }
  absl::Status Validate(const std::string& dataset) {
    v1::StartFineTuneRequest request = Request(dataset);
    request.set_validate_only(true);
    return Start(request).status();
  }
  absl::Status Progress(const std::string& job_id) {
    v1::GetProgressRequest request;
    request.set_job_id(job_id);
    v1::GetProgressResponse response;
    return Call(*training_, &v1::TrainingService::Stub::GetProgress, request,
                response);
  }
  absl::Status Resume(const std::string& job_id) {
    v1::ResumeFineTuneRequest request;
    request.set_job_id(job_id);
    v1::ResumeFineTuneResponse response;
    return Call(*training_, &v1::TrainingService::Stub::ResumeFineTune, request,
                response);
  }
  absl::Status DeleteDataset(const std::string& id) {
    v1::DeleteDatasetRequest request;
    request.set_id(id);
    v1::DeleteDatasetResponse response;
    return Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, request,
                response);
  }
  static v1::ModelRef Ref(const std::string& name, int64_t version) {
    v1::ModelRef ref;
    ref.set_name(name);
    ref.set_version(version);
    return ref;
  }
  absl::Status GetModel(const v1::ModelRef& ref) {
    v1::GetModelRequest request;
    *request.mutable_model() = ref;
    v1::GetModelResponse response;
    return Call(*models_, &v1::ModelService::Stub::GetModel, request, response,
                kClassify);
  }
  absl::Status PromoteModel(const v1::ModelRef& ref) {
    v1::PromoteModelRequest request;
    *request.mutable_model() = ref;
    v1::PromoteModelResponse response;
    return Call(*models_, &v1::ModelService::Stub::PromoteModel, request,
                response);
  }
  absl::Status DeleteModel(const v1::ModelRef& ref) {
    v1::DeleteModelRequest request;
    *request.mutable_model() = ref;
    v1::DeleteModelResponse response;
    return Call(*models_, &v1::ModelService::Stub::DeleteModel, request,
                response);
  }
  absl::Status DownloadModel(const v1::ModelRef& ref) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", kAdmin);
    v1::DownloadModelRequest request;
    *request.mutable_model() = ref;
    request.set_format(v1::MODEL_FORMAT_ONNX);
    const auto reader = models_->DownloadModel(&context, request);
    v1::DownloadModelResponse response;
    while (reader->Read(&response)) {
    }
    return FromGrpcStatus(reader->Finish());
  }
  absl::Status Classify(const v1::ClassifyRequest& request,
                        v1::ClassifyResponse& response,
                        const std::string& token = kClassify) {
    return Call(*inference_, &v1::InferenceService::Stub::Classify, request,
                response, token);
  }
  absl::Status Classify(const v1::ClassifyRequest& request) {
    v1::ClassifyResponse response;
    return Classify(request, response);
  }
  static v1::ClassifyRequest Images(const std::vector<std::string>& images) {
    v1::ClassifyRequest request;
    for (const std::string& image : images) request.add_images(image);
    return request;
  }

  // Follows a job to its end.
  v1::FineTuneJob Finish(const std::string& job_id) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", kAdmin);
    v1::WatchProgressRequest request;
    request.set_job_id(job_id);
    const auto reader = training_->WatchProgress(&context, request);
    v1::WatchProgressResponse latest;
    while (reader->Read(&latest)) {
    }
    EXPECT_THAT(FromGrpcStatus(reader->Finish()), IsOk());
    return latest.job();
  }

  const TempDir dir_;
  ServerOptions options_;
  std::chrono::milliseconds deadline_{0};
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::TrainingService::Stub> training_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::DatasetService::Stub> datasets_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

TEST_F(ErrorTableTest, BadFieldIsNamedWithItsRange) {
  v1::StartFineTuneRequest request = Request("pets");
  request.mutable_hyper_parameters()->set_epochs(0);
  const absl::Status status = Start(request).status();
  EXPECT_THAT(status,
              IsError(absl::StatusCode::kInvalidArgument, "BadRequest"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("1..1000"));
}

TEST_F(ErrorTableTest, RequestOfTooManyFieldsIsInvalidWhateverItsToken) {
  v1::ClassifyRequest request;
  while (request.images_size() <= kMaxRequestFields) request.add_images("");
  for (const char* token : {kClassify, ""}) {
    v1::ClassifyResponse response;
    const absl::Status status = Classify(request, response, token);
    EXPECT_THAT(status, IsError(absl::StatusCode::kInvalidArgument, ""));
    EXPECT_THAT(std::string(status.message()), HasSubstr("at most 16384"));
  }
}

TEST_F(ErrorTableTest, WhatIsUnknownIsNotFound) {
  v1::ClassifyRequest classify = Images({Image("rgb.png")});
  classify.mutable_model()->set_name("none");
  for (const absl::Status& status :
       {Progress("ft-none"), Start(Request("none")).status(),
        Start(Request(std::string(64, 'a'))).status(), Resume("ft-none"),
        DeleteDataset(std::string(64, 'a')), Classify(classify),
        GetModel(Ref("none", 0)), PromoteModel(Ref("none", 1)),
        DeleteModel(Ref("none", 1)), DownloadModel(Ref("none", 1))}) {
    EXPECT_THAT(status, IsError(absl::StatusCode::kNotFound, "ResourceInfo"));
  }
}

TEST_F(ErrorTableTest, DatasetThatCannotBeTrainedOnIsAPrecondition) {
  for (const char* dataset : {"lonely", "empty", "unreadable"}) {
    EXPECT_THAT(
        Validate(dataset),
        IsError(absl::StatusCode::kFailedPrecondition, "PreconditionFailure"))
        << dataset;
  }
  EXPECT_THAT(Validate("pets"), IsOk());
  const v1::FineTuneJob job = Finish(Start(Request("lonely"))->job_id());
  EXPECT_EQ(job.error().code(),
            static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(job.error().details_size(), 1);
}

TEST_F(ErrorTableTest, NoModelAndNoWeightsArePreconditions) {
  EXPECT_THAT(
      Classify(Images({Image("rgb.png")})),
      IsError(absl::StatusCode::kFailedPrecondition, "PreconditionFailure"));
  EXPECT_THAT(GetModel({}), IsError(absl::StatusCode::kFailedPrecondition,
                                    "PreconditionFailure"));
  v1::StartFineTuneRequest request = Request("pets");
  request.mutable_hyper_parameters()->clear_from_scratch();
  EXPECT_THAT(Start(request), IsError(absl::StatusCode::kFailedPrecondition,
                                      "PreconditionFailure"));
}

TEST_F(ErrorTableTest, PathOutOfTheDataRootIsDenied) {
  fs::create_directory_symlink("/etc", dir_.path() / "data/out");
  for (const char* path : {"../tokens", "/etc", "out"}) {
    EXPECT_THAT(Start(Request(path)),
                IsError(absl::StatusCode::kPermissionDenied, ""));
  }
}

TEST_F(ErrorTableTest, UndecodableImageFailsAloneOrWithItsRequest) {
  ASSERT_EQ(Finish(Start(Request("pets"))->job_id()).state(),
            v1::JOB_STATE_SUCCEEDED);
  v1::ClassifyResponse response;
  ASSERT_THAT(Classify(Images({"no image", Image("rgb.png")}), response),
              IsOk());
  EXPECT_EQ(response.results(0).error().code(),
            static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(response.results(1).scores_size(), 2);
  EXPECT_THAT(Classify(Images({"no image"})),
              IsError(absl::StatusCode::kInvalidArgument, ""));

  // What follows needs the same model: a deadline that has passed, and a
  // version that is not there.
  v1::ClassifyRequest version = Images({Image("rgb.png")});
  version.mutable_model()->set_name("pets");
  version.mutable_model()->set_version(9);
  EXPECT_THAT(Classify(version),
              IsError(absl::StatusCode::kNotFound, "ResourceInfo"));
  deadline_ = std::chrono::milliseconds(1);
  // More than one batch: the last is too late however late the client looks.
  EXPECT_THAT(Classify(Images(std::vector<std::string>(32, Image("rgb.png")))),
              IsError(absl::StatusCode::kDeadlineExceeded, ""));
}

TEST_F(ErrorTableTest, PromotedModelIsNotDeleted) {
  ASSERT_EQ(Finish(Start(Request("pets"))->job_id()).state(),
            v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(
      DeleteModel(Ref("pets", 1)),
      IsError(absl::StatusCode::kFailedPrecondition, "PreconditionFailure"));
  EXPECT_THAT(DownloadModel(Ref("pets", 1)), IsOk());
}

TEST_F(ErrorTableTest, FullQueuesSayWhenToTryAgain) {
  v1::StartFineTuneRequest longer = Request("pets");
  longer.mutable_hyper_parameters()->set_epochs(1000);
  absl::Status status;
  for (int i = 0; i < 3 && status.ok(); ++i) status = Start(longer).status();
  EXPECT_THAT(status,
              IsError(absl::StatusCode::kResourceExhausted, "RetryInfo"));
}

TEST_F(ErrorTableTest, FullImageQueueSaysWhenToTryAgain) {
  ASSERT_EQ(Finish(Start(Request("pets"))->job_id()).state(),
            v1::JOB_STATE_SUCCEEDED);
  options_.max_queued_images = 1;
  Serve();
  EXPECT_THAT(Classify(Images({Image("rgb.png"), Image("rgb.png")})),
              IsError(absl::StatusCode::kResourceExhausted, "RetryInfo"));
}

TEST_F(ErrorTableTest, ResumeOfARunningJobIsAbortedAndOfAGoodOneRefused) {
  v1::StartFineTuneRequest longer = Request("pets");
  longer.mutable_hyper_parameters()->set_epochs(1000);
  const auto running = Start(longer);
  ASSERT_THAT(running, IsOk());
  EXPECT_THAT(Resume(running->job_id()),
              IsError(absl::StatusCode::kAborted, ""));
  v1::CancelFineTuneRequest cancel;
  cancel.set_job_id(running->job_id());
  v1::CancelFineTuneResponse cancelled;
  ASSERT_THAT(Call(*training_, &v1::TrainingService::Stub::CancelFineTune,
                   cancel, cancelled),
              IsOk());
  EXPECT_EQ(Finish(running->job_id()).state(), v1::JOB_STATE_CANCELLED);

  const auto good = Start(Request("pets"));
  ASSERT_EQ(Finish(good->job_id()).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(
      Resume(good->job_id()),
      IsError(absl::StatusCode::kFailedPrecondition, "PreconditionFailure"));
}

TEST_F(ErrorTableTest, RequestIdWithAnotherBodyExistsAlready) {
  v1::StartFineTuneRequest request = Request("pets");
  request.set_request_id("once");
  ASSERT_THAT(Start(request), IsOk());
  request.set_model_name("other");
  EXPECT_THAT(Start(request), IsError(absl::StatusCode::kAlreadyExists, ""));
}

TEST_F(ErrorTableTest, CallersAreAskedWhoTheyAreAndWhatTheyMay) {
  EXPECT_THAT(Start(Request("pets"), ""),
              IsError(absl::StatusCode::kUnauthenticated, ""));
  EXPECT_THAT(Start(Request("pets"), "Bearer somebody-0123456789"),
              IsError(absl::StatusCode::kUnauthenticated, ""));
  EXPECT_THAT(Start(Request("pets"), kClassify),
              IsError(absl::StatusCode::kPermissionDenied, ""));
}

TEST_F(ErrorTableTest, CudaThatIsNotThereStopsTheStart) {
  ServerOptions cuda = options_;
  cuda.state_dir = dir_.path() / "other";
  cuda.device = "cuda:99";
  const auto server = Server::Start(cuda);
  EXPECT_THAT(server, IsError(absl::StatusCode::kFailedPrecondition, ""));
}

}  // namespace
}  // namespace finetune
