#include "server/service/open_inference_service.h"

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "server/service/testing/fake_inference.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::StatusIs;
using Stub = inference::GRPCInferenceService::Stub;

constexpr int kMaxImages = 4;
constexpr int kMaxImageBytes = 10;

// As the protocol writes elements of BYTES.
std::string Raw(const std::vector<std::string>& elements) {
  std::string raw;
  for (const std::string& element : elements) {
    for (int shift = 0; shift < 32; shift += 8) {
      raw.push_back(static_cast<char>(element.size() >> shift));
    }
    raw += element;
  }
  return raw;
}

std::vector<float> Floats(const std::string& raw) {
  std::vector<float> values(raw.size() / sizeof(float));
  std::memcpy(values.data(), raw.data(), values.size() * sizeof(float));
  return values;
}

// A request that is good but for its contents.
inference::ModelInferRequest Request(const std::vector<int64_t>& shape) {
  inference::ModelInferRequest request;
  auto* input = request.add_inputs();
  input->set_name("image");
  input->set_datatype("BYTES");
  input->mutable_shape()->Add(shape.begin(), shape.end());
  return request;
}

inference::ModelInferRequest RawRequest(
    const std::vector<std::string>& images) {
  auto request = Request({static_cast<int64_t>(images.size()), 1});
  request.add_raw_input_contents(Raw(images));
  return request;
}

inference::ModelInferRequest TypedRequest(
    const std::vector<std::string>& images) {
  auto request = Request({static_cast<int64_t>(images.size()), 1});
  for (const std::string& image : images) {
    request.mutable_inputs(0)->mutable_contents()->add_bytes_contents(image);
  }
  return request;
}

// The field that a BadRequest names; "" without one.
std::string BadField(const absl::Status& status) {
  google::rpc::BadRequest detail;
  const auto payload =
      status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  if (!payload || !detail.ParseFromString(std::string(*payload))) return "";
  return detail.field_violations(0).field();
}

class OpenInferenceServiceTest : public ::testing::Test {
 protected:
  OpenInferenceServiceTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    stub_ =
        inference::GRPCInferenceService::NewStub(server_->InProcessChannel({}));
    inference_.Publish("insects");
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(
      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                   Response*),
      const Request& request) {
    grpc::ClientContext context;
    Response response;
    const grpc::Status status =
        (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }
  absl::StatusOr<inference::ModelInferResponse> Infer(
      const inference::ModelInferRequest& request) {
    return Call(&Stub::ModelInfer, request);
  }
  // The field that is refused of a request as `change` makes it from a good
  // one of two images.
  std::string RefusedField(
      const std::function<void(inference::ModelInferRequest&)>& change) {
    auto request = RawRequest({"bee", "ant"});
    change(request);
    const absl::Status status = Infer(request).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return BadField(status);
  }
  std::string RefusedRaw(const std::string& raw) {
    return RefusedField([&](auto& r) { r.set_raw_input_contents(0, raw); });
  }
  std::string RefusedShape(const std::vector<int64_t>& shape) {
    return RefusedField([&](auto& r) {
      r.mutable_inputs(0)->mutable_shape()->Assign(shape.begin(), shape.end());
    });
  }

  testing::FakeInference inference_;
  const Authorizer authorizer_;  // Allows all.
  bool ready_ = true;
  OpenInferenceService service_{
      {.max_images = kMaxImages, .max_image_bytes = kMaxImageBytes},
      inference_.OpenInferenceDoors([this] { return ready_; }),
      inference_.classifier,
      inference_.calls,
      authorizer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Stub> stub_;
};

TEST_F(OpenInferenceServiceTest, RawImagesAreAnsweredRaw) {
  auto request = RawRequest({"bee", "bee"});
  request.set_id("7");
  const auto response = Infer(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->model_name(), "insects");
  EXPECT_EQ(response->model_version(), "1");
  EXPECT_EQ(response->id(), "7");
  ASSERT_EQ(response->outputs_size(), 2);
  const auto& probabilities = response->outputs(0);
  EXPECT_EQ(probabilities.name(), "probabilities");
  EXPECT_EQ(probabilities.datatype(), "FP32");
  EXPECT_THAT(probabilities.shape(), ElementsAre(2, 3));
  EXPECT_FALSE(probabilities.has_contents());
  EXPECT_THAT(Floats(response->raw_output_contents(0)),
              ElementsAre(0.08f, 0.9f, 0.02f, 0.08f, 0.9f, 0.02f));
  const auto& label = response->outputs(1);
  EXPECT_EQ(label.name(), "label");
  EXPECT_EQ(label.datatype(), "BYTES");
  EXPECT_THAT(label.shape(), ElementsAre(2, 1));
  EXPECT_EQ(response->raw_output_contents(1), Raw({"bee", "bee"}));
}

TEST_F(OpenInferenceServiceTest, TypedImagesAreAnsweredTyped) {
  const auto response = Infer(TypedRequest({"bee", "bee"}));
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->raw_output_contents(), IsEmpty());
  EXPECT_THAT(response->outputs(0).shape(), ElementsAre(2, 3));
  EXPECT_THAT(response->outputs(0).contents().fp32_contents(),
              ElementsAre(0.08f, 0.9f, 0.02f, 0.08f, 0.9f, 0.02f));
  EXPECT_THAT(response->outputs(1).contents().bytes_contents(),
              ElementsAre("bee", "bee"));
}

TEST_F(OpenInferenceServiceTest, ShapeMayLeaveOutItsSecondDimension) {
  for (auto request : {RawRequest({"bee", "bee"}), TypedRequest({"a", "b"})}) {
    request.mutable_inputs(0)->clear_shape();
    request.mutable_inputs(0)->add_shape(2);
    const auto response = Infer(request);
    ASSERT_THAT(response, IsOk());
    EXPECT_THAT(response->outputs(1).shape(), ElementsAre(2, 1));
  }
}

TEST_F(OpenInferenceServiceTest, OnlyTheOutputsAskedForComeInTheirOrder) {
  auto request = RawRequest({"bee"});
  request.add_outputs()->set_name("label");
  auto response = Infer(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->outputs_size(), 1);
  EXPECT_THAT(response->raw_output_contents(), ElementsAre(Raw({"bee"})));

  request.add_outputs()->set_name("probabilities");
  response = Infer(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->outputs(1).name(), "probabilities");
  EXPECT_EQ(response->raw_output_contents(1).size(), 3 * sizeof(float));
}

TEST_F(OpenInferenceServiceTest, ClassificationRanksTheClassesAsText) {
  auto request = TypedRequest({"bee", "bee"});
  auto* output = request.add_outputs();
  output->set_name("probabilities");
  auto& top_k = (*output->mutable_parameters())["classification"];
  top_k.set_int64_param(2);
  auto response = Infer(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->outputs(0).datatype(), "BYTES");
  EXPECT_THAT(response->outputs(0).shape(), ElementsAre(2, 2));
  EXPECT_THAT(response->outputs(0).contents().bytes_contents(),
              ElementsAre("0.900000:1:bee", "0.080000:0:ant", "0.900000:1:bee",
                          "0.080000:0:ant"));

  top_k.set_int64_param(1000);  // More than there are.
  response = Infer(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->outputs(0).shape(), ElementsAre(2, 3));
}

TEST_F(OpenInferenceServiceTest, RawContentsMustHoldTheImagesExactly) {
  const std::string field = "raw_input_contents[0]";
  const std::string good = Raw({"bee", "ant"});
  EXPECT_EQ(RefusedRaw(""), field);
  EXPECT_EQ(RefusedRaw(good.substr(0, 2)), field);   // In the first length.
  EXPECT_EQ(RefusedRaw(good.substr(0, 9)), field);   // In the second.
  EXPECT_EQ(RefusedRaw(good.substr(0, 13)), field);  // In the second image.
  EXPECT_EQ(RefusedRaw(Raw({"bee"})), field);
  EXPECT_EQ(RefusedRaw(Raw({"bee", "ant", "cat"})), field);
  EXPECT_EQ(RefusedRaw(good + "x"), field);
  EXPECT_EQ(RefusedRaw(std::string("\xff\xff\xff\xff", 4) + "bee"), field);
  EXPECT_EQ(RefusedRaw(std::string("\xfb\xff\xff\xff", 4) + "bee"), field);
}

TEST_F(OpenInferenceServiceTest, TypedContentsMustHoldAsManyImagesAsTheShape) {
  auto request = TypedRequest({"bee", "ant"});
  request.mutable_inputs(0)->mutable_contents()->add_bytes_contents("cat");
  const absl::Status status = Infer(request).status();
  EXPECT_EQ(BadField(status), "inputs[0].contents.bytes_contents");
  EXPECT_THAT(std::string(status.message()), HasSubstr("2 images"));
}

TEST_F(OpenInferenceServiceTest, ContentsComeOnceEitherRawOrTyped) {
  EXPECT_EQ(RefusedField([](auto& r) { r.clear_raw_input_contents(); }),
            "raw_input_contents");
  EXPECT_EQ(RefusedField([](auto& r) { r.add_raw_input_contents(""); }),
            "raw_input_contents");
  EXPECT_EQ(RefusedField([](auto& r) {
              r.mutable_inputs(0)->mutable_contents()->add_bytes_contents("b");
            }),
            "raw_input_contents");
}

TEST_F(OpenInferenceServiceTest, ShapeIsCheckedBeforeItIsUsed) {
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
           {},
           {0},
           {-1, 1},
           {2, 2},
           {1, 2},
           {2, 1, 1},
           {kMaxImages + 1, 1},
           {std::numeric_limits<int64_t>::max()},
           {std::numeric_limits<int64_t>::min(), -1},
           {(int64_t{1} << 32) + 2, 1}}) {
    EXPECT_EQ(RefusedShape(shape), "inputs[0].shape")
        << ::testing::PrintToString(shape);
  }
}

TEST_F(OpenInferenceServiceTest, InputIsOneTensorOfImages) {
  EXPECT_EQ(RefusedField([](auto& r) { r.clear_inputs(); }), "inputs");
  EXPECT_EQ(RefusedField([](auto& r) { *r.add_inputs() = r.inputs(0); }),
            "inputs");
  EXPECT_EQ(
      RefusedField([](auto& r) { r.mutable_inputs(0)->set_name("pixels"); }),
      "inputs[0].name");
  EXPECT_EQ(
      RefusedField([](auto& r) { r.mutable_inputs(0)->set_datatype("UINT8"); }),
      "inputs[0].datatype");
  EXPECT_EQ(
      RefusedField([](auto& r) {
        (*r.mutable_inputs(0)->mutable_parameters())["shared_memory_region"]
            .set_string_param("mine");
      }),
      "inputs[0].parameters");
}

TEST_F(OpenInferenceServiceTest, OutputsAskedForMustExist) {
  EXPECT_EQ(RefusedField([](auto& r) { r.add_outputs()->set_name("logits"); }),
            "outputs[0].name");
  EXPECT_EQ(RefusedField([](auto& r) {
              r.add_outputs()->set_name("label");
              r.add_outputs()->set_name("label");
            }),
            "outputs[1].name");
  const auto with_parameter = [this](const char* output, const char* name,
                                     int64_t value) {
    return RefusedField([=](auto& r) {
      r.add_outputs()->set_name(output);
      (*r.mutable_outputs(0)->mutable_parameters())[name].set_int64_param(
          value);
    });
  };
  EXPECT_EQ(with_parameter("label", "classification", 1),
            "outputs[0].parameters");
  EXPECT_EQ(with_parameter("probabilities", "shared_memory_byte_size", 1),
            "outputs[0].parameters");
  for (const int64_t top_k : {-1, 0, 1001}) {
    EXPECT_EQ(with_parameter("probabilities", "classification", top_k),
              "outputs[0].parameters[classification]");
  }
}

TEST_F(OpenInferenceServiceTest, ImagesAreLimitedInNumberAndSize) {
  EXPECT_THAT(Infer(RawRequest({"1", "2", "3", "4"})), IsOk());
  EXPECT_EQ(BadField(Infer(RawRequest({"1", "2", "3", "4", "5"})).status()),
            "inputs[0].shape");
  const std::string largest(kMaxImageBytes, 'x');
  EXPECT_THAT(Infer(RawRequest({largest})), IsOk());
  EXPECT_EQ(BadField(Infer(RawRequest({"bee", largest + "x"})).status()),
            "image[1]");
  EXPECT_EQ(BadField(Infer(TypedRequest({"bee", largest + "x"})).status()),
            "image[1]");
  EXPECT_EQ(BadField(Infer(RawRequest({""})).status()), "image[0]");
}

TEST_F(OpenInferenceServiceTest, ImageThatCannotBeDecodedFailsTheRequest) {
  const absl::Status status =
      Infer(RawRequest({"bee", "noise", "noise"})).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(BadField(status), "image[1]");
  EXPECT_THAT(std::string(status.message()), HasSubstr("not an image"));
}

TEST_F(OpenInferenceServiceTest, NameAndVersionSayWhichModelAnswers) {
  inference_.Publish("insects");
  auto request = RawRequest({"bee"});
  EXPECT_EQ(Infer(request)->model_version(), "2");
  request.set_model_name("insects");
  EXPECT_EQ(Infer(request)->model_version(), "2");
  request.set_model_version("1");
  EXPECT_EQ(Infer(request)->model_version(), "1");
  request.set_model_version("3");
  const absl::Status missing = Infer(request).status();
  EXPECT_THAT(missing, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(missing.GetPayload("type.googleapis.com/google.rpc.ResourceInfo")
                  .has_value());
  request.set_model_name("birds");
  EXPECT_THAT(Infer(request), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(OpenInferenceServiceTest, ImpossibleNameOrVersionIsInvalid) {
  for (const char* version : {"0", "-1", "+1", " 1", "1 ", "1.0", "0x1", "one",
                              "9223372036854775808"}) {
    EXPECT_EQ(RefusedField([&](auto& r) {
                r.set_model_name("insects");
                r.set_model_version(version);
              }),
              "model_version")
        << version;
  }
  EXPECT_EQ(RefusedField([](auto& r) { r.set_model_name("../insects"); }),
            "model_name");
  EXPECT_EQ(RefusedField([](auto& r) { r.set_model_version("1"); }),
            "model_name");
}

TEST_F(OpenInferenceServiceTest, ShuttingDownServerSaysWhenToTryAgain) {
  inference_.batcher.Shutdown();
  const absl::Status status = Infer(RawRequest({"bee"})).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo")
                  .has_value());
}

TEST_F(OpenInferenceServiceTest, NoRandomContentsBreakTheParser) {
  std::mt19937 random(20261124);
  const auto below = [&random](size_t n) {
    return static_cast<int64_t>(random() % n);
  };
  int answered = 0;
  for (int round = 0; round < 3000; ++round) {
    auto request = Request({1 + below(kMaxImages), 1});
    std::string raw;
    // Mostly plausible lengths, so that all branches are reached.
    for (int64_t i = 0; i < request.inputs(0).shape(0) + below(2); ++i) {
      raw += Raw({std::string(1 + below(kMaxImageBytes), 'x')});
    }
    for (int64_t flips = below(3); flips > 0; --flips) {
      raw[below(raw.size())] = static_cast<char>(random());
    }
    if (below(4) == 0) raw.resize(below(raw.size() + 1));
    request.add_raw_input_contents(raw);
    const auto response = Infer(request);
    if (response.ok()) {
      ++answered;
      EXPECT_EQ(response->outputs(0).shape(0), request.inputs(0).shape(0));
    } else {
      EXPECT_THAT(BadField(response.status()),
                  ::testing::AnyOf("raw_input_contents[0]",
                                   ::testing::StartsWith("image[")));
    }
  }
  EXPECT_GT(answered, 100);
}

TEST_F(OpenInferenceServiceTest, ServerTellsWhatItIsAndCanDo) {
  EXPECT_TRUE(Call(&Stub::ServerLive, {})->live());
  EXPECT_TRUE(Call(&Stub::ServerReady, {})->ready());
  ready_ = false;
  EXPECT_TRUE(Call(&Stub::ServerLive, {})->live());
  EXPECT_FALSE(Call(&Stub::ServerReady, {})->ready());
  const auto metadata = Call(&Stub::ServerMetadata, {});
  ASSERT_THAT(metadata, IsOk());
  EXPECT_EQ(metadata->name(), "finetuned");
  EXPECT_FALSE(metadata->version().empty());
  EXPECT_THAT(metadata->extensions(),
              ElementsAre("classification", "model_configuration"));
}

TEST_F(OpenInferenceServiceTest, ModelIsReadyIfThereIsOne) {
  const auto ready = [this](const char* name, const char* version) {
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    return Call(&Stub::ModelReady, request);
  };
  EXPECT_TRUE(ready("insects", "")->ready());
  EXPECT_TRUE(ready("insects", "1")->ready());
  EXPECT_TRUE(ready("", "")->ready());
  EXPECT_FALSE(ready("insects", "2")->ready());
  EXPECT_FALSE(ready("birds", "")->ready());
  EXPECT_EQ(BadField(ready("insects", "x").status()), "version");
}

TEST_F(OpenInferenceServiceTest, MetadataDescribesTheTensorsWithTheirBatch) {
  inference_.Publish("insects");
  inference_.Publish("birds");
  inference::ModelMetadataRequest request;
  request.set_name("insects");
  const auto metadata = Call(&Stub::ModelMetadata, request);
  ASSERT_THAT(metadata, IsOk());
  EXPECT_EQ(metadata->name(), "insects");
  EXPECT_THAT(metadata->versions(), ElementsAre("1", "2"));
  ASSERT_EQ(metadata->inputs_size(), 1);
  EXPECT_EQ(metadata->inputs(0).name(), "image");
  EXPECT_EQ(metadata->inputs(0).datatype(), "BYTES");
  EXPECT_THAT(metadata->inputs(0).shape(), ElementsAre(-1, 1));
  ASSERT_EQ(metadata->outputs_size(), 2);
  EXPECT_EQ(metadata->outputs(0).name(), "probabilities");
  EXPECT_EQ(metadata->outputs(0).datatype(), "FP32");
  EXPECT_THAT(metadata->outputs(0).shape(), ElementsAre(-1, 3));
  EXPECT_EQ(metadata->outputs(1).name(), "label");
  EXPECT_THAT(metadata->outputs(1).shape(), ElementsAre(-1, 1));
  request.set_name("fish");
  EXPECT_THAT(Call(&Stub::ModelMetadata, request),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(OpenInferenceServiceTest, ConfigDescribesThemWithout) {
  const auto response = Call(&Stub::ModelConfig, {});
  ASSERT_THAT(response, IsOk());
  const inference::ModelConfig& config = response->config();
  EXPECT_EQ(config.name(), "insects");
  EXPECT_EQ(config.max_batch_size(), kMaxImages);
  EXPECT_EQ(config.input(0).data_type(), inference::TYPE_STRING);
  EXPECT_THAT(config.input(0).dims(), ElementsAre(1));
  EXPECT_EQ(config.output(0).data_type(), inference::TYPE_FP32);
  EXPECT_THAT(config.output(0).dims(), ElementsAre(3));
  EXPECT_EQ(config.output(1).data_type(), inference::TYPE_STRING);
  EXPECT_THAT(config.output(1).dims(), ElementsAre(1));
  EXPECT_TRUE(config.has_dynamic_batching());
  inference::ModelConfigRequest request;
  request.set_name("birds");
  EXPECT_THAT(Call(&Stub::ModelConfig, request),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(OpenInferenceServiceTest, IndexListsEveryVersion) {
  inference_.Publish("insects");
  inference_.Publish("birds", /*promote=*/false);
  const auto index = Call(&Stub::RepositoryIndex, {});
  ASSERT_THAT(index, IsOk());
  std::vector<std::string> listed;
  for (const auto& model : index->models()) {
    listed.push_back(model.name() + "@" + model.version() + " " +
                     model.state());
  }
  EXPECT_THAT(listed,
              ::testing::UnorderedElementsAre(
                  "insects@1 READY", "insects@2 READY", "birds@1 READY"));
  inference::RepositoryIndexRequest other;
  other.set_repository_name("other");
  EXPECT_EQ(BadField(Call(&Stub::RepositoryIndex, other).status()),
            "repository_name");
}

}  // namespace
}  // namespace finetune
