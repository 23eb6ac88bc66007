#include "server/model/onnx_export.h"

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "onnx/checker.h"
#include "onnx/onnx_pb.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;
using Json = nlohmann::json;
using Shapes = std::map<std::string, std::vector<int64_t>>;

// The tensors of torchvision's resnet18 with three classes.
Shapes Resnet18Shapes() {
  Shapes shapes;
  const auto batch_norm = [&shapes](const std::string& name, int64_t channels) {
    for (const char* part : {"weight", "bias", "running_mean", "running_var"}) {
      shapes[name + "." + part] = {channels};
    }
  };
  shapes["conv1.weight"] = {64, 3, 7, 7};
  batch_norm("bn1", 64);
  int64_t in = 64;
  for (int layer = 1; layer <= 4; ++layer) {
    const int64_t channels = 32 << layer;
    for (int block = 0; block < 2; ++block) {
      const std::string name =
          "layer" + std::to_string(layer) + "." + std::to_string(block);
      shapes[name + ".conv1.weight"] = {channels, in, 3, 3};
      shapes[name + ".conv2.weight"] = {channels, channels, 3, 3};
      batch_norm(name + ".bn1", channels);
      batch_norm(name + ".bn2", channels);
      if (in != channels) {
        shapes[name + ".downsample.0.weight"] = {channels, in, 1, 1};
        batch_norm(name + ".downsample.1", channels);
      }
      in = channels;
    }
  }
  shapes["fc.weight"] = {3, 512};
  shapes["fc.bias"] = {3};
  return shapes;
}

// A safetensors file: of each tensor, its first element counts them.
std::string Safetensors(const Shapes& shapes, const char* type = "F32") {
  Json header;
  std::string data;
  float count = 0;
  for (const auto& [name, shape] : shapes) {
    size_t bytes = sizeof(float);
    for (const int64_t side : shape) bytes *= static_cast<size_t>(side);
    header[name] = {{"dtype", type},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + bytes}}};
    std::string tensor(bytes, '\0');
    std::memcpy(tensor.data(), &++count, sizeof(count));
    data += tensor;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) +
         text + data;
}

v1::Model Insects() {
  v1::Model model;
  model.mutable_ref()->set_name("insects");
  model.mutable_ref()->set_version(3);
  for (const char* label : {"ant", "bee", "\"cat\""}) model.add_labels(label);
  model.set_job_id("ft-1");
  model.set_test_accuracy(0.5);
  return model;
}

onnx::ModelProto Parse(const std::string& bytes) {
  onnx::ModelProto proto;
  EXPECT_TRUE(proto.ParseFromString(bytes));
  return proto;
}

class OnnxExportTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Export(const v1::Model& model,
                                     const std::string& weights) {
    const absl::Status exported =
        ExportOnnx(model, dir_.Write("weights", weights), path_);
    if (!exported.ok()) return exported;
    return ReadFile(path_, 1 << 30);
  }

  const TempDir dir_;
  const std::filesystem::path path_ = dir_.path() / "model.onnx";
  const Shapes shapes_ = Resnet18Shapes();
  const std::string weights_ = Safetensors(shapes_);
};

TEST_F(OnnxExportTest, FilePassesOnnxsOwnChecker) {
  const auto bytes = Export(Insects(), weights_);
  ASSERT_THAT(bytes, IsOk());
  EXPECT_NO_THROW(onnx::checker::check_model(Parse(*bytes)));
}

TEST_F(OnnxExportTest, InputAndOutputAreAsTheContractSays) {
  const onnx::ModelProto proto = Parse(*Export(Insects(), weights_));
  EXPECT_EQ(proto.opset_import(0).version(), 17);
  ASSERT_EQ(proto.graph().input_size(), 1);
  ASSERT_EQ(proto.graph().output_size(), 1);
  const auto& input = proto.graph().input(0);
  EXPECT_EQ(input.name(), "image");
  const auto& shape = input.type().tensor_type().shape();
  EXPECT_EQ(shape.dim(0).dim_param(), "batch");
  EXPECT_EQ(shape.dim(1).dim_value(), 3);
  EXPECT_EQ(shape.dim(2).dim_value(), 224);
  EXPECT_EQ(shape.dim(3).dim_value(), 224);
  const auto& output = proto.graph().output(0);
  EXPECT_EQ(output.name(), "logits");
  EXPECT_EQ(output.type().tensor_type().shape().dim(0).dim_param(), "batch");
  EXPECT_EQ(output.type().tensor_type().shape().dim(1).dim_value(), 3);
}

TEST_F(OnnxExportTest, WeightsKeepTheirNamesShapesAndBytes) {
  const onnx::ModelProto proto = Parse(*Export(Insects(), weights_));
  Shapes found;
  std::map<std::string, float> first;
  for (const auto& tensor : proto.graph().initializer()) {
    found[tensor.name()] = {tensor.dims().begin(), tensor.dims().end()};
    std::memcpy(&first[tensor.name()], tensor.raw_data().data(), sizeof(float));
  }
  EXPECT_EQ(found, shapes_);
  float count = 0;
  for (const auto& [name, shape] : shapes_) EXPECT_EQ(first[name], ++count);
}

TEST_F(OnnxExportTest, MetadataSaysHowToUseTheModel) {
  const onnx::ModelProto proto = Parse(*Export(Insects(), weights_));
  std::map<std::string, Json> metadata;
  for (const auto& entry : proto.metadata_props()) {
    metadata[entry.key()] = Json::parse(entry.value());
  }
  EXPECT_EQ(metadata["labels"], Json({"ant", "bee", "\"cat\""}));
  EXPECT_EQ(metadata["model"]["name"], "insects");
  EXPECT_EQ(metadata["model"]["version"], 3);
  EXPECT_EQ(metadata["model"]["job_id"], "ft-1");
  EXPECT_EQ(metadata["preprocessing"]["resize_shorter_side"], 256);
  EXPECT_EQ(metadata["preprocessing"]["center_crop"], Json({224, 224}));
  EXPECT_EQ(metadata["preprocessing"]["mean"], Json({0.485, 0.456, 0.406}));
}

TEST_F(OnnxExportTest, WeightsOfSomethingElseAreDataLoss) {
  Shapes incomplete = shapes_;
  incomplete.erase("layer3.0.downsample.1.bias");
  const auto refused = Export(Insects(), Safetensors(incomplete));
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("layer3.0.downsample.1.bias"));
  EXPECT_THAT(Export(Insects(), Safetensors(shapes_, "I32")),
              StatusIs(absl::StatusCode::kDataLoss));
  v1::Model two = Insects();
  two.mutable_labels()->RemoveLast();
  EXPECT_THAT(Export(two, weights_), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_FALSE(Export(Insects(), "no weights").ok());
}

}  // namespace
}  // namespace finetune
