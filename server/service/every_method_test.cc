// Every method that a server offers asks for a token of the right role: also
// one that is written after this test.

#include <memory>
#include <string>

#include "common/request_parser.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/service/dataset_service.h"
#include "server/service/inference_service.h"
#include "server/service/model_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/reflection_service.h"
#include "server/service/testing/fake_inference.h"
#include "server/service/testing/methods.h"
#include "server/service/training_service.h"

namespace finetune {
namespace {

using testing::CallAny;
using ::testing::Contains;
using testing::ExpectOfEveryMethod;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::MethodsOf;
using testing::ServicesOf;
using testing::TempDir;

constexpr char kAdminToken[] = "admin-0123456789abcdef";
constexpr char kClassifyToken[] = "classify-0123456789abcdef";

// The real services, each over rooms that hold nothing.
class EveryMethodTest : public ::testing::Test {
 protected:
  EveryMethodTest() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.RegisterService(&training_);
    builder.RegisterService(&inference_);
    builder.RegisterService(&open_inference_);
    builder.RegisterService(&dataset_service_);
    builder.RegisterService(&model_service_);
    AddReflection(builder);
    inference_room_.calls.Attach(builder);
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
  }

  const TempDir dir_;
  std::unique_ptr<Authorizer> authorizer_ = *Authorizer::Open(dir_.Write(
      "tokens",
      std::string("admin ") + kAdminToken + "\nclassify " + kClassifyToken));
  testing::FakeInference inference_room_;
  const std::unique_ptr<JobStore> store_ =
      *JobStore::Open(*inference_room_.database);
  JobRunner runner_{dir_.path() / "jobs", trainer::TrainerSpec(), *store_,
                    [](const auto&...) { return absl::OkStatus(); },
                    [](const auto&...) { return Publication(); }};
  Scheduler scheduler_{{}, *store_, runner_};
  TrainingService training_{{}, *store_, scheduler_, *authorizer_};
  InferenceService inference_{
      {}, inference_room_.classifier, inference_room_.calls, *authorizer_};
  OpenInferenceService open_inference_{{},
                                       inference_room_.OpenInferenceDoors(),
                                       inference_room_.classifier,
                                       inference_room_.calls,
                                       *authorizer_};
  const std::unique_ptr<DatasetStore> datasets_ = *DatasetStore::Open(
      {.dir = dir_.path() / "datasets"}, *inference_room_.database);
  DatasetService dataset_service_{{}, *datasets_, *authorizer_};
  ModelService model_service_{{}, {}, *inference_room_.registry, *authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(EveryMethodTest, ServicesAreFoundByReflection) {
  EXPECT_THAT(ServicesOf(channel_), Contains("finetune.v1.TrainingService"));
  EXPECT_THAT(ServicesOf(channel_), Contains("finetune.v1.InferenceService"));
  EXPECT_THAT(MethodsOf("finetune.v1.TrainingService"),
              Contains("/finetune.v1.TrainingService/WatchProgress"));
}

TEST_F(EveryMethodTest, RefusesACallWithoutAToken) {
  ExpectOfEveryMethod(channel_, Role::kClassify, "",
                      absl::StatusCode::kUnauthenticated);
}

TEST_F(EveryMethodTest, RefusesAnUnknownToken) {
  ExpectOfEveryMethod(channel_, Role::kClassify, "unknown-0123456789abcdef",
                      absl::StatusCode::kUnauthenticated);
}

TEST_F(EveryMethodTest, OfAnAdminServiceRefusesATokenToClassify) {
  ExpectOfEveryMethod(channel_, Role::kAdmin, kClassifyToken,
                      absl::StatusCode::kPermissionDenied);
}

TEST_F(EveryMethodTest, RightTokenGetsThrough) {
  EXPECT_EQ(
      CallAny(channel_, "/finetune.v1.TrainingService/GetProgress", kAdminToken)
          .code(),
      absl::StatusCode::kNotFound);
  EXPECT_EQ(CallAny(channel_, "/finetune.v1.TrainingService/WatchProgress",
                    kAdminToken)
                .code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(CallAny(channel_, "/finetune.v1.InferenceService/Classify",
                    kClassifyToken)
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(EveryMethodTest, TokenToClassifyMayLookAtModels) {
  EXPECT_THAT(
      CallAny(channel_, "/finetune.v1.ModelService/ListModels", kClassifyToken),
      IsOk());
  EXPECT_EQ(
      CallAny(channel_, "/finetune.v1.ModelService/GetModel", kClassifyToken)
          .code(),
      absl::StatusCode::kFailedPrecondition);
}

TEST_F(EveryMethodTest, OfOursRefusesARequestOfTooManyFields) {
  std::string unknown_fields;
  for (int i = 0; i <= kMaxRequestFields; ++i) unknown_fields += "\x78\x01";
  for (const std::string& service : ServicesOf(channel_)) {
    if (service == "grpc.health.v1.Health") continue;  // The library's own.
    for (const std::string& method : MethodsOf(service)) {
      const absl::Status status =
          CallAny(channel_, method, kAdminToken, unknown_fields);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << method;
      EXPECT_THAT(std::string(status.message()), HasSubstr("fields")) << method;
    }
  }
}

TEST_F(EveryMethodTest, HealthIsOpenToProbes) {
  EXPECT_THAT(CallAny(channel_, "/grpc.health.v1.Health/Check", ""), IsOk());
  for (const char* method : {"ServerLive", "ServerReady", "ServerMetadata"}) {
    EXPECT_THAT(
        CallAny(channel_,
                std::string("/inference.GRPCInferenceService/") + method, ""),
        IsOk());
  }
}

}  // namespace
}  // namespace finetune
