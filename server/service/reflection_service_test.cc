#include "server/service/reflection_service.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/request_parser.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/descriptor_database.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/service/call_log.h"

namespace finetune {
namespace {

using grpc::reflection::v1alpha::ServerReflection;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr char kInferenceFile[] = "finetune/v1/inference_service.proto";

ServerReflectionRequest ForSymbol(const std::string& symbol) {
  ServerReflectionRequest request;
  request.set_file_containing_symbol(symbol);
  return request;
}

ServerReflectionRequest ForServices() {
  ServerReflectionRequest request;
  request.set_list_services("");
  return request;
}

ServerReflectionRequest ForExtension(const std::string& type, int number) {
  ServerReflectionRequest request;
  request.mutable_file_containing_extension()->set_containing_type(type);
  request.mutable_file_containing_extension()->set_extension_number(number);
  return request;
}

ServerReflectionRequest ForExtensions(const std::string& type) {
  ServerReflectionRequest request;
  request.set_all_extension_numbers_of_type(type);
  return request;
}

// extension.proto, serialized and linked in: none of ours extends anything.
const std::string& FileWithAnExtension() {
  static const std::string bytes = [] {
    using google::protobuf::FieldDescriptorProto;
    google::protobuf::FileDescriptorProto file;
    file.set_name("extension.proto");
    file.add_dependency("google/protobuf/descriptor.proto");
    auto& extension = *file.add_extension();
    extension.set_name("test_extension");
    extension.set_extendee(".google.protobuf.FieldOptions");
    extension.set_number(50001);
    extension.set_type(FieldDescriptorProto::TYPE_INT32);
    extension.set_label(FieldDescriptorProto::LABEL_OPTIONAL);
    return file.SerializeAsString();
  }();
  static const bool linked [[maybe_unused]] = [] {
    google::protobuf::DescriptorPool::InternalAddGeneratedFile(
        bytes.data(), static_cast<int>(bytes.size()));
    return true;
  }();
  return bytes;
}

// Calls the reflection of a server that has one service of ours.
class ReflectionServiceTest : public ::testing::Test {
 protected:
  ReflectionServiceTest() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.RegisterService(&inference_);
    AddReflection(builder);
    calls_.Attach(builder);
    server_ = builder.BuildAndStart();
    stub_ = ServerReflection::NewStub(server_->InProcessChannel({}));
    stream_ = stub_->ServerReflectionInfo(&context_);
  }

  ~ReflectionServiceTest() override { context_.TryCancel(); }

  ServerReflectionResponse Ask(const ServerReflectionRequest& request) {
    ServerReflectionResponse response;
    EXPECT_TRUE(stream_->Write(request));
    EXPECT_TRUE(stream_->Read(&response));
    return response;
  }

  int ErrorOf(const ServerReflectionRequest& request) {
    return Ask(request).error_response().error_code();
  }

  // The status of a stream that this request ends.
  grpc::Status EndWith(const ServerReflectionRequest& request) {
    ServerReflectionResponse response;
    EXPECT_TRUE(stream_->Write(request));
    EXPECT_FALSE(stream_->Read(&response));
    return stream_->Finish();
  }

  v1::InferenceService::CallbackService inference_;
  CallLog calls_{{}, [](const CallRecord&) {}};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ServerReflection::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<ServerReflectionRequest,
                                           ServerReflectionResponse>>
      stream_;
};

TEST_F(ReflectionServiceTest, ListsWhateverTheServerHas) {
  std::vector<std::string> names;
  const auto response = Ask(ForServices());
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  EXPECT_THAT(names,
              UnorderedElementsAre("finetune.v1.InferenceService",
                                   "grpc.health.v1.Health",
                                   "grpc.reflection.v1alpha.ServerReflection"));
}

TEST_F(ReflectionServiceTest, FilesOfAServiceAreCompleteAndEachComesOnce) {
  const auto response = Ask(ForSymbol("finetune.v1.InferenceService"));
  google::protobuf::SimpleDescriptorDatabase files;
  for (const std::string& bytes :
       response.file_descriptor_response().file_descriptor_proto()) {
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(bytes));
    EXPECT_TRUE(files.Add(file)) << file.name() << " came twice";
  }
  const google::protobuf::DescriptorPool pool(&files);
  const auto* const request =
      pool.FindMessageTypeByName("finetune.v1.ClassifyRequest");
  ASSERT_NE(request, nullptr);
  EXPECT_NE(request->FindFieldByName("images"), nullptr);
  EXPECT_NE(pool.FindServiceByName("finetune.v1.InferenceService"), nullptr);
}

TEST_F(ReflectionServiceTest, FileIsFoundByItsNameAndByAllSymbolsInIt) {
  ServerReflectionRequest by_name;
  by_name.set_file_by_filename(kInferenceFile);
  const std::string files =
      Ask(by_name).file_descriptor_response().SerializeAsString();
  EXPECT_THAT(files, HasSubstr(kInferenceFile));
  for (const char* symbol :
       {"finetune.v1.InferenceService", "finetune.v1.InferenceService.Classify",
        "finetune.v1.ClassifyRequest", "finetune.v1.ClassifyRequest.images"}) {
    EXPECT_EQ(
        Ask(ForSymbol(symbol)).file_descriptor_response().SerializeAsString(),
        files)
        << symbol;
  }
}

TEST_F(ReflectionServiceTest, AnswerRepeatsTheRequest) {
  ServerReflectionRequest request = ForSymbol("finetune.v1.ClassifyRequest");
  request.set_host("here");
  const auto response = Ask(request);
  EXPECT_EQ(response.valid_host(), "here");
  EXPECT_EQ(response.original_request().SerializeAsString(),
            request.SerializeAsString());
}

TEST_F(ReflectionServiceTest, ExtensionsAreFound) {
  const std::string& bytes = FileWithAnExtension();
  const auto numbers = Ask(ForExtensions("google.protobuf.FieldOptions"))
                           .all_extension_numbers_response();
  EXPECT_EQ(numbers.base_type_name(), "google.protobuf.FieldOptions");
  EXPECT_THAT(numbers.extension_number(), ElementsAre(50001));
  const auto files = Ask(ForExtension("google.protobuf.FieldOptions", 50001))
                         .file_descriptor_response();
  ASSERT_EQ(files.file_descriptor_proto_size(), 2);
  EXPECT_EQ(files.file_descriptor_proto(0), bytes);
}

TEST_F(ReflectionServiceTest, UnknownNamesAreNotFoundAndTheStreamGoesOn) {
  ServerReflectionRequest by_name;
  by_name.set_file_by_filename("none.proto");
  EXPECT_EQ(ErrorOf(by_name), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf(ForSymbol("finetune.v1.None")),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf(ForSymbol("")), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf(ForExtensions("none")), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf(ForExtension("none", 1)), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf(ForExtension("google.protobuf.FieldOptions", 50002)),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ErrorOf({}), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(Ask(ForServices()).has_list_services_response());
  stream_->WritesDone();
  EXPECT_TRUE(stream_->Finish().ok());
}

TEST_F(ReflectionServiceTest, TooManyFieldsAreRefused) {
  ServerReflectionRequest request = ForServices();
  auto& unknown = *request.GetReflection()->MutableUnknownFields(&request);
  for (int i = 0; i < kMaxRequestFields; ++i) unknown.AddVarint(1000, 0);
  const grpc::Status status = EndWith(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("16384 fields"));
}

TEST_F(ReflectionServiceTest, LongRequestsAreRefused) {
  EXPECT_EQ(ErrorOf(ForSymbol(std::string(4096 - 3, 'x'))),
            grpc::StatusCode::NOT_FOUND);
  const grpc::Status status = EndWith(ForSymbol(std::string(4096 - 2, 'x')));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("4096 bytes"));
}

// Else Shutdown, which waits for calls, would never return.
TEST_F(ReflectionServiceTest, StreamEndsWhenItsCallerGoes) {
  Ask(ForServices());
  context_.TryCancel();
  server_->Shutdown();
  EXPECT_EQ(calls_.in_background(), 0);
}

TEST_F(ReflectionServiceTest, ShutdownEndsAnIdleStream) {
  Ask(ForServices());
  EXPECT_TRUE(calls_.AwaitIdle(absl::ZeroDuration()));  // It holds up no drain.
  EXPECT_EQ(calls_.in_background(), 1);
  server_->Shutdown(std::chrono::system_clock::now());
  EXPECT_EQ(calls_.in_background(), 0);
  EXPECT_FALSE(stream_->Finish().ok());
}

}  // namespace
}  // namespace finetune
