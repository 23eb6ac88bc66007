#include "server/service/inference_service.h"

#include <memory>
#include <string>

#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/service/testing/fake_inference.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

class InferenceServiceTest : public ::testing::Test {
 protected:
  InferenceServiceTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ = v1::InferenceService::NewStub(server_->InProcessChannel({}));
  }

  void PublishModel(const std::string& name) { inference_.Publish(name); }

  absl::StatusOr<v1::ClassifyResponse> Classify(
      const v1::ClassifyRequest& request) {
    grpc::ClientContext context;
    v1::ClassifyResponse response;
    const grpc::Status status = stub_->Classify(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }
  static v1::ClassifyRequest Request(
      std::initializer_list<const char*> images) {
    v1::ClassifyRequest request;
    for (const char* image : images) request.add_images(image);
    return request;
  }

  testing::FakeInference inference_;
  const Authorizer authorizer_;  // Allows all.
  InferenceService service_{{.max_images = 4, .max_image_bytes = 10},
                            inference_.classifier,
                            inference_.calls,
                            authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(InferenceServiceTest, ScoresComeBestFirstWithTheModelNamed) {
  PublishModel("insects");
  const auto response = Classify(Request({"bee"}));
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->model().name(), "insects");
  EXPECT_EQ(response->model().version(), 1);
  const v1::ClassifyResult& result = response->results(0);
  ASSERT_EQ(result.scores_size(), 3);
  EXPECT_EQ(result.scores(0).label(), "bee");
  EXPECT_EQ(result.scores(0).class_index(), 1);
  EXPECT_FLOAT_EQ(result.scores(0).probability(), 0.9f);
  EXPECT_EQ(result.scores(2).label(), "cat");
  EXPECT_EQ(response->timing().batch_size(), 1);
}

TEST_F(InferenceServiceTest, TopKLimitsTheScoresAndMayExceedTheClasses) {
  PublishModel("insects");
  auto request = Request({"bee"});
  request.set_top_k(2);
  EXPECT_EQ(Classify(request)->results(0).scores_size(), 2);
  request.set_top_k(1000);
  EXPECT_EQ(Classify(request)->results(0).scores_size(), 3);
}

TEST_F(InferenceServiceTest, BadImageFailsAloneAmongOthers) {
  PublishModel("insects");
  const auto response = Classify(Request({"bee", "noise", "bee"}));
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->results(1).error().message(), "not an image");
  EXPECT_EQ(response->results(1).scores_size(), 0);
  EXPECT_EQ(response->results(2).scores(0).label(), "bee");
}

TEST_F(InferenceServiceTest, BadImageAloneIsTheCallsError) {
  PublishModel("insects");
  EXPECT_THAT(Classify(Request({"noise"})),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(InferenceServiceTest, NoModelYetIsAPrecondition) {
  EXPECT_THAT(Classify(Request({"bee"})),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(InferenceServiceTest, UnknownModelOrVersionIsNotFound) {
  PublishModel("insects");
  auto request = Request({"bee"});
  request.mutable_model()->set_name("birds");
  EXPECT_THAT(Classify(request), StatusIs(absl::StatusCode::kNotFound));
  request.mutable_model()->set_name("insects");
  request.mutable_model()->set_version(7);
  const auto response = Classify(request);
  EXPECT_THAT(response, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(std::string(response.status().message()), HasSubstr("insects@7"));
}

TEST_F(InferenceServiceTest, FieldOutOfItsRangeIsInvalid) {
  PublishModel("insects");
  auto bad_top_k = Request({"bee"});
  bad_top_k.set_top_k(-1);
  auto bad_name = Request({"bee"});
  bad_name.mutable_model()->set_name("../insects");
  auto bad_version = Request({"bee"});
  bad_version.mutable_model()->set_version(-1);
  auto no_name = Request({"bee"});
  no_name.mutable_model()->set_version(1);
  for (const v1::ClassifyRequest& request :
       {Request({}), Request({"1", "2", "3", "4", "5"}), Request({""}),
        Request({"12345678901"}), bad_top_k, bad_name, bad_version, no_name}) {
    EXPECT_THAT(Classify(request), StatusIs(absl::StatusCode::kInvalidArgument))
        << request.ShortDebugString();
  }
}

TEST_F(InferenceServiceTest, NewVersionIsServedFromTheNextCallOn) {
  PublishModel("insects");
  EXPECT_EQ(Classify(Request({"bee"}))->model().version(), 1);
  PublishModel("insects");
  EXPECT_EQ(Classify(Request({"bee"}))->model().version(), 2);
  auto request = Request({"bee"});
  request.mutable_model()->set_name("insects");
  request.mutable_model()->set_version(1);
  EXPECT_EQ(Classify(request)->model().version(), 1);
}

}  // namespace
}  // namespace finetune
