// What a request may cost while it is parsed, seen from the other side.

#include <memory>
#include <string>

#include "common/request_parser.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/service/inference_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/testing/fake_inference.h"
#include "server/service/testing/methods.h"

namespace finetune {
namespace {

using testing::CallAny;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr char kClassify[] = "/finetune.v1.InferenceService/Classify";
constexpr char kModelInfer[] = "/inference.GRPCInferenceService/ModelInfer";

class RequestLimitTest : public ::testing::Test {
 protected:
  RequestLimitTest() {
    inference_.Publish("insects");
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(&service_);
    builder.RegisterService(&open_service_);
    inference_.calls.Attach(builder);
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
  }

  absl::Status Call(const char* method,
                    const google::protobuf::Message& request) {
    return CallAny(channel_, method, "", request.SerializeAsString());
  }

  testing::FakeInference inference_;
  const Authorizer authorizer_;  // Allows all.
  InferenceService service_{
      {}, inference_.classifier, inference_.calls, authorizer_};
  OpenInferenceService open_service_{{},
                                     inference_.OpenInferenceDoors(),
                                     inference_.classifier,
                                     inference_.calls,
                                     authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(RequestLimitTest, ClassifyTakesNoMoreFields) {
  v1::ClassifyRequest request;
  request.add_images("bee");
  EXPECT_THAT(Call(kClassify, request), IsOk());
  while (request.images_size() < kMaxRequestFields) request.add_images("");
  EXPECT_THAT(std::string(Call(kClassify, request).message()),
              HasSubstr("images must be 1..64 images"));
  request.add_images("");
  const absl::Status status = Call(kClassify, request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(status.message()), HasSubstr("16384 fields"));
}

TEST_F(RequestLimitTest, ModelInferTakesNoMoreFields) {
  inference::ModelInferRequest request;
  while (request.inputs_size() < kMaxRequestFields) request.add_inputs();
  EXPECT_THAT(std::string(Call(kModelInfer, request).message()),
              HasSubstr("inputs must be one tensor"));
  request.add_inputs();
  const absl::Status status = Call(kModelInfer, request);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(status.message()), HasSubstr("16384 fields"));
}

TEST_F(RequestLimitTest, LargestImageIsNotCounted) {
  v1::ClassifyRequest request;
  request.add_images(std::string(16 << 20, 'x'));
  EXPECT_THAT(Call(kClassify, request), IsOk());
}

TEST_F(RequestLimitTest, WhatIsNoRequestIsSaidToBeNone) {
  const absl::Status status = CallAny(channel_, kClassify, "", "\xff\xff");
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(status.message(), "the request is no finetune.v1.ClassifyRequest");
}

TEST_F(RequestLimitTest, StreamEndsWithTheErrorAfterTheAnswers) {
  const auto stub = v1::InferenceService::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->ClassifyStream(&context);
  v1::ClassifyStreamRequest request;
  request.set_item_id("first");
  request.set_image("bee");
  stream->Write(request);
  auto& unknown = *request.GetReflection()->MutableUnknownFields(&request);
  for (int i = 0; i < kMaxRequestFields; ++i) unknown.AddVarint(1000, 0);
  stream->Write(request);
  v1::ClassifyStreamResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.item_id(), "first");
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("16384 fields"));
}

}  // namespace
}  // namespace finetune
