#include "server/service/call_log.h"

#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/testing/status_matchers.h"
#include "common/token.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/service/inference_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/reflection_service.h"
#include "server/service/testing/fake_inference.h"
#include "server/service/testing/methods.h"

namespace finetune {
namespace {

using ::testing::MatchesRegex;

constexpr char kToken[] = "classify-0123456789abcdef";

class CallLogTest : public ::testing::Test {
 protected:
  CallLogTest() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    builder.RegisterService(&open_service_);
    AddReflection(builder);
    log_.Attach(builder);
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel({});
    stub_ = v1::InferenceService::NewStub(channel_);
  }

  // Classifies `images` and returns the id that came back.
  std::string Classify(std::initializer_list<const char*> images,
                       const std::string& request_id = "",
                       const std::string& token = kToken) {
    grpc::ClientContext context;
    context.AddMetadata(kTokenHeader, kTokenScheme + token);
    if (!request_id.empty()) context.AddMetadata(kRequestIdHeader, request_id);
    v1::ClassifyRequest request;
    for (const char* image : images) request.add_images(image);
    v1::ClassifyResponse response;
    stub_->Classify(&context, request, &response);
    const auto& trailing = context.GetServerTrailingMetadata();
    const auto id = trailing.find(kRequestIdHeader);
    return id == trailing.end()
               ? "none"
               : std::string(id->second.data(), id->second.size());
  }

  // Calls any method; returns the code.
  absl::StatusCode Call(const std::string& method,
                        const std::string& message = "") {
    return testing::CallAny(channel_, method, kToken, message).code();
  }

  // The calls that have ended.
  std::vector<CallRecord> Ended() {
    EXPECT_TRUE(log_.AwaitIdle(absl::Seconds(30)));
    const MutexLock lock(mu_);
    return ended_;
  }

  Mutex mu_;
  std::vector<CallRecord> ended_ ABSL_GUARDED_BY(mu_);
  CallLog log_{{v1::InferenceService::service_full_name(),
                inference::GRPCInferenceService::service_full_name()},
               [this](const CallRecord& record) {
                 const MutexLock lock(mu_);
                 ended_.push_back(record);
               }};
  testing::FakeInference inference_;
  const std::unique_ptr<Authorizer> authorizer_ = *Authorizer::Open(
      inference_.dir.Write("tokens", std::string("classify ") + kToken));
  InferenceService service_{{}, inference_.classifier, log_, *authorizer_};
  OpenInferenceService open_service_{{},
                                     inference_.OpenInferenceDoors(),
                                     inference_.classifier,
                                     log_,
                                     *authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(CallLogTest, CallersRequestIdComesBackAndIsReported) {
  inference_.Publish("insects");
  EXPECT_EQ(Classify({"bee"}, "my.request_1-A"), "my.request_1-A");
  EXPECT_EQ(Ended().at(0).request_id, "my.request_1-A");
}

TEST_F(CallLogTest, WithoutAGoodIdEachCallGetsARandomOne) {
  const std::string first = Classify({"bee"});
  EXPECT_THAT(first, MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(Classify({"bee"}), first);
  for (const std::string& bad :
       {std::string("a b"), std::string("\"quoted\""), std::string(65, 'x')}) {
    EXPECT_THAT(Classify({"bee"}, bad), MatchesRegex("[0-9a-f]{16}")) << bad;
  }
}

TEST_F(CallLogTest, ClassifyIsReportedWithItsModelSizesAndTimes) {
  inference_.Publish("insects");
  Classify({"bee", "noise"});
  const CallRecord record = Ended().at(0);
  EXPECT_EQ(record.method, "finetune.v1.InferenceService/Classify");
  EXPECT_TRUE(record.status.ok());
  EXPECT_GT(record.elapsed, absl::ZeroDuration());
  EXPECT_NE(record.peer, "");
  ASSERT_TRUE(record.classify.has_value());
  EXPECT_EQ(record.classify->model, "insects@1");
  EXPECT_EQ(record.classify->images, 2);
  EXPECT_EQ(record.classify->request_bytes, 8);
  EXPECT_EQ(record.classify->batch_size, 1);  // "noise" is no image.
  EXPECT_GT(record.classify->queue, absl::ZeroDuration());
}

TEST_F(CallLogTest, ModelInferIsReportedAsClassifyIs) {
  inference_.Publish("insects");
  inference::ModelInferRequest request;
  auto& input = *request.add_inputs();
  input.set_name("image");
  input.set_datatype("BYTES");
  input.add_shape(2);
  input.mutable_contents()->add_bytes_contents("bee");
  input.mutable_contents()->add_bytes_contents("noise");
  // The protocol fails the request for one bad image; the log names the model.
  EXPECT_EQ(Call("/inference.GRPCInferenceService/ModelInfer",
                 request.SerializeAsString()),
            absl::StatusCode::kInvalidArgument);
  const CallRecord record = Ended().at(0);
  ASSERT_TRUE(record.classify.has_value());
  EXPECT_EQ(record.classify->model, "insects@1");
  EXPECT_EQ(record.classify->images, 2);
  EXPECT_EQ(record.classify->request_bytes, 8);
  EXPECT_EQ(record.classify->batch_size, 1);
  EXPECT_GT(record.classify->queue, absl::ZeroDuration());
}

TEST_F(CallLogTest, CallThatWasRefusedIsReportedWithItsCode) {
  EXPECT_NE(Classify({"bee"}, "", "unknown-0123456789abcdef"), "none");
  Classify({"bee"});  // No model has been promoted.
  const auto ended = Ended();
  ASSERT_EQ(ended.size(), 2u);
  EXPECT_EQ(CodeName(ended[0].status.error_code()), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(ended[1].status.error_code()), "FAILED_PRECONDITION");
  EXPECT_EQ(ended[1].classify->model, "");
}

TEST_F(CallLogTest, RequestThatIsNoMessageIsReported) {
  EXPECT_NE(Call("/finetune.v1.InferenceService/Classify", "\xff\xff"),
            absl::StatusCode::kOk);
  const auto ended = Ended();
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_FALSE(ended[0].status.ok());
  EXPECT_FALSE(ended[0].classify.has_value());
}

TEST_F(CallLogTest, MethodsThatDoNotExistAreAllOneOther) {
  for (const char* method :
       {"/finetune.v1.InferenceService/None", "/a.B/C", "/x"}) {
    EXPECT_EQ(Call(method), absl::StatusCode::kUnimplemented);
  }
  for (const CallRecord& record : Ended()) {
    EXPECT_EQ(record.method, "other");
    EXPECT_EQ(record.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(Ended().size(), 3u);
}

TEST_F(CallLogTest, MethodWithoutAHandlerKeepsItsName) {
  Call("/finetune.v1.InferenceService/ClassifyStream");
  const auto ended = Ended();
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended[0].method, "finetune.v1.InferenceService/ClassifyStream");
}

TEST_F(CallLogTest, HealthAndReflectionAreBackground) {
  EXPECT_EQ(Call("/grpc.health.v1.Health/Check"), absl::StatusCode::kOk);
  EXPECT_FALSE(testing::ServicesOf(channel_).empty());
  server_->Shutdown();
  for (const CallRecord& record : Ended()) {
    EXPECT_TRUE(record.IsBackground()) << record.method;
  }
  EXPECT_EQ(Ended().size(), 2u);
}

TEST_F(CallLogTest, HealthWatchDoesNotCountAsInFlight) {
  grpc::ClientContext context;
  grpc::GenericStub generic(channel_);
  grpc::CompletionQueue queue;
  const auto call =
      generic.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(nullptr);
  queue.Next(&tag, &ok);
  const grpc::Slice empty("");
  call->WriteLast(grpc::ByteBuffer(&empty, 1), grpc::WriteOptions(), nullptr);
  queue.Next(&tag, &ok);
  grpc::ByteBuffer first;
  call->Read(&first, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  EXPECT_EQ(log_.in_flight(), 0);
  EXPECT_EQ(log_.in_background(), 1);
  EXPECT_TRUE(log_.AwaitIdle(absl::ZeroDuration()));
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
}

TEST(ToLogFieldsTest, SaysWhoAskedForWhatAndHowLongItTook) {
  CallRecord record{
      .request_id = "4f2a",
      .method = "finetune.v1.InferenceService/Classify",
      .peer = "ipv4:10.0.0.7:4711",
      .elapsed = absl::Microseconds(23'456),
      .classify = ClassifyFacts{.images = 2,
                                .request_bytes = 81'920,
                                .model = "pets@3",
                                .queue = absl::Microseconds(1'500),
                                .preprocess = absl::Milliseconds(3),
                                .compute = absl::Milliseconds(15),
                                .batch_size = 4}};
  EXPECT_EQ(ToLogFields(record).dump(),
            R"({"message":"call","request_id":"4f2a",)"
            R"("method":"finetune.v1.InferenceService/Classify","code":"OK",)"
            R"("ms":23.456,"peer":"ipv4:10.0.0.7:4711","images":2,)"
            R"("request_bytes":81920,"model":"pets@3","queue_ms":1.5,)"
            R"("preprocess_ms":3.0,"compute_ms":15.0,"batch_size":4})");
}

TEST(ToLogFieldsTest, FailedCallSaysWhyInAtMost256Bytes) {
  CallRecord record{
      .method = "a.B/C",
      .status = {grpc::StatusCode::NOT_FOUND, std::string(999, 'x')}};
  const auto fields = ToLogFields(record);
  EXPECT_EQ(fields["code"], "NOT_FOUND");
  EXPECT_EQ(fields["error"], std::string(256, 'x'));
  EXPECT_FALSE(fields.contains("images"));
}

}  // namespace
}  // namespace finetune
