#include "common/request_parser.h"

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "finetune/v1/dataset_service.grpc.pb.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/stubs/logging.h"
#include "google/protobuf/util/message_differencer.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "inference/open_inference.grpc.pb.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;

// Parses as gRPC does, of slices that are no longer than `slice_bytes`.
template <class T>
grpc::Status Parse(const std::string& bytes, T* message,
                   size_t slice_bytes = 1 << 14) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += slice_bytes) {
    slices.emplace_back(bytes.substr(i, slice_bytes));
  }
  grpc::ByteBuffer buffer(slices.data(), slices.size());
  return grpc::SerializationTraits<T>::Deserialize(&buffer, message);
}

template <class T>
grpc::Status Parse(const T& message) {
  T parsed;
  return Parse(message.SerializeAsString(), &parsed);
}

// Expects `add` to add `fields` fields, and `others` the first time: as often
// as they fit a request is taken, and refused with one more.
void ExpectCounted(
    int fields, const std::function<void(inference::ModelInferRequest&)>& add,
    int others = 0) {
  inference::ModelInferRequest request;
  const int fit = (kMaxRequestFields - others) / fields;
  for (int i = 0; i < fit; ++i) add(request);
  EXPECT_TRUE(Parse(request).ok());
  add(request);
  const grpc::Status status = Parse(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("at most 16384 fields"));
}

// Is added where there is none.
inference::ModelInferRequest::InferInputTensor* FirstInput(
    inference::ModelInferRequest& request) {
  return request.inputs().empty() ? request.add_inputs()
                                  : request.mutable_inputs(0);
}

inference::ModelInferRequest OrdinaryRequest() {
  inference::ModelInferRequest request;
  request.set_model_name("pets");
  request.set_id("1");
  auto& input = *request.add_inputs();
  input.set_name("image");
  input.add_shape(2);
  input.add_shape(-1);
  (*input.mutable_parameters())["a"].set_int64_param(1);
  (*input.mutable_parameters())["b"].set_string_param("two");
  input.mutable_contents()->add_bytes_contents("photo");
  input.mutable_contents()->add_fp32_contents(0.5f);
  request.add_outputs()->set_name("label");
  request.add_raw_input_contents(std::string(1000, 'x'));
  return request;
}

TEST(RequestParserTest, RequestArrivesWhole) {
  const auto sent = OrdinaryRequest();
  for (const size_t slice_bytes : {1, 7, 1 << 14}) {
    inference::ModelInferRequest parsed;
    ASSERT_TRUE(Parse(sent.SerializeAsString(), &parsed, slice_bytes).ok());
    EXPECT_TRUE(
        google::protobuf::util::MessageDifferencer::Equals(parsed, sent));
  }
  EXPECT_TRUE(Parse(inference::ModelInferRequest()).ok());
}

TEST(RequestParserTest, EntriesOfListsAreCountedAtAllDepths) {
  ExpectCounted(1, [](auto& r) { r.add_inputs(); });
  ExpectCounted(1, [](auto& r) { r.add_outputs(); });
  ExpectCounted(1, [](auto& r) { r.add_raw_input_contents(""); });
  ExpectCounted(2, [](auto& r) { r.add_inputs()->set_name("x"); });
  ExpectCounted(
      1,
      [](auto& r) {
        FirstInput(r)->mutable_contents()->add_bytes_contents("");
      },
      /*others=*/2);
  ExpectCounted(
      3,  // The entry, its key and its value.
      [](auto& r) {
        auto& parameters = *FirstInput(r)->mutable_parameters();
        parameters[std::to_string(parameters.size())];
      },
      /*others=*/1);
}

TEST(RequestParserTest, BytesOfPackedVarintsAreCounted) {
  ExpectCounted(
      1, [](auto& r) { FirstInput(r)->add_shape(1); }, /*others=*/2);
  ExpectCounted(
      10, [](auto& r) { FirstInput(r)->add_shape(-1); }, /*others=*/2);
  // Not packed floats, which take no more memory than bytes.
  inference::ModelInferRequest floats;
  floats.add_inputs()->mutable_contents()->mutable_fp32_contents()->Resize(
      2 * kMaxRequestFields, 0);
  EXPECT_TRUE(Parse(floats).ok());
}

TEST(RequestParserTest, UnknownFieldsAndGroupsAreCounted) {
  for (const std::string& unknown : {
           std::string("\xf8\x01\x00", 3),               // Varint.
           std::string("\xfa\x01\x00", 3),               // Bytes.
           std::string("\xf9\x01\0\0\0\0\0\0\0\0", 10),  // 64 bits.
           std::string("\xfd\x01\0\0\0\0", 6),           // 32 bits.
           std::string("\xfb\x01\xfc\x01", 4),           // Group.
           std::string("\x0b\x0c", 2),  // Group, with a message's number.
       }) {
    std::string bytes;
    for (int i = 0; i < kMaxRequestFields; ++i) bytes += unknown;
    v1::ClassifyRequest request;
    EXPECT_TRUE(Parse(bytes, &request).ok());
    EXPECT_FALSE(Parse(bytes + unknown, &request).ok());
    v1::ClassifyRequest inside;
    inside.mutable_model()->ParseFromString(bytes);
    EXPECT_FALSE(Parse(inside).ok());
  }
}

TEST(RequestParserTest, MalformedRequestIsRefused) {
  const std::string good = OrdinaryRequest().SerializeAsString();
  for (const std::string& bad : {
           good.substr(0, good.size() - 1), std::string("\xff\xff"),
           std::string("\x00", 1),                   // Field 0.
           std::string("\x0c"),                      // End of no group.
           std::string("\x0f"),                      // Wire type 7.
           std::string("\x2b"),                      // Group without an end.
           std::string("\x2a\xff\xff\xff\xff\x0f"),  // Length of -1.
           std::string("\x2a\x02\x0a\x05"),  // Longer than what it is in.
           std::string(200, '\x0b') + std::string(200, '\x0c'),  // Deep.
       }) {
    inference::ModelInferRequest request;
    const grpc::Status status = Parse(bad, &request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(),
              "the request is no inference.ModelInferRequest");
  }
}

TEST(RequestParserTest, AcceptsWhateverProtobufDoes) {
  const google::protobuf::LogSilencer silencer;  // Of bad UTF-8.
  std::mt19937 random(20261126);
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = OrdinaryRequest().SerializeAsString().substr(0, 90);
    for (int flips = 1 + static_cast<int>(random() % 3); flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    bytes.resize(random() % (bytes.size() + 1));
    inference::ModelInferRequest expected, parsed;
    const bool fits = expected.ParseFromString(bytes);
    accepted += fits;
    EXPECT_EQ(Parse(bytes, &parsed, 13).ok(), fits);
  }
  EXPECT_GT(accepted, 100);
}

TEST(RequestParserTest, ResponseMayHaveMoreFields) {
  v1::ClassifyResponse response;
  for (int i = 0; i <= kMaxRequestFields; ++i) response.add_results();
  EXPECT_TRUE(Parse(response).ok());
}

TEST(RequestParserTest, ErrorIsHandedOverOnce) {
  v1::ClassifyRequest request;
  EXPECT_TRUE(Parse("", &request).ok());
  EXPECT_TRUE(TakeParseError().ok());
  EXPECT_FALSE(Parse("\xff", &request).ok());
  EXPECT_EQ(TakeParseError().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(TakeParseError().ok());
}

// What the name's ending stands for.
TEST(RequestParserTest, EveryMethodOfOursTakesARequest) {
  for (const auto* file :
       {v1::ListDatasetsRequest::descriptor()->file(),
        v1::ClassifyRequest::descriptor()->file(),
        v1::ListModelsRequest::descriptor()->file(),
        v1::StartFineTuneRequest::descriptor()->file(),
        inference::ModelInferRequest::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        const auto* const method = file->service(i)->method(j);
        EXPECT_THAT(method->input_type()->name(),
                    ::testing::EndsWith("Request"))
            << method->full_name();
      }
    }
  }
}

}  // namespace
}  // namespace finetune
