#include "server/model/onnx_export.h"

#include <initializer_list>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "nlohmann/json.hpp"
#include "onnx/onnx_pb.h"
#include "server/model/safetensors_view.h"

namespace finetune {
namespace {

using Json = nlohmann::ordered_json;
using Views = std::map<std::string, SafetensorsView>;

constexpr uint64_t kMaxWeightsBytes = uint64_t{1} << 30;  // ONNX's own: 2 GiB.
constexpr int64_t kIrVersion = 8;
constexpr int64_t kOpset = 17;
constexpr int64_t kFeatures = 512;  // Inputs of fc.
constexpr int64_t kImageSide = 224;
constexpr char kBatch[] = "batch";

// Adds nodes to a graph, one after the other; each gives the name of what it
// computes.
class GraphBuilder {
 public:
  explicit GraphBuilder(onnx::GraphProto& graph) : graph_(graph) {}

  // All convolutions here are square, without bias.
  std::string Conv(const std::string& x, const std::string& name,
                   int64_t kernel, int64_t stride) {
    onnx::NodeProto& node = Node("Conv", name, {x, name + ".weight"});
    SetInts(node, "kernel_shape", 2, kernel);
    SetInts(node, "strides", 2, stride);
    SetInts(node, "pads", 4, kernel / 2);
    return node.output(0);
  }

  std::string BatchNorm(const std::string& x, const std::string& name) {
    onnx::NodeProto& node =
        Node("BatchNormalization", name,
             {x, name + ".weight", name + ".bias", name + ".running_mean",
              name + ".running_var"});
    onnx::AttributeProto& epsilon = Attribute(node, "epsilon");
    epsilon.set_type(onnx::AttributeProto::FLOAT);
    epsilon.set_f(1e-5f);
    return node.output(0);
  }

  std::string Relu(const std::string& x, const std::string& name) {
    return Node("Relu", name, {x}).output(0);
  }

  std::string Add(const std::string& x, const std::string& y,
                  const std::string& name) {
    return Node("Add", name, {x, y}).output(0);
  }

  std::string MaxPool(const std::string& x, const std::string& name) {
    onnx::NodeProto& node = Node("MaxPool", name, {x});
    SetInts(node, "kernel_shape", 2, 3);
    SetInts(node, "strides", 2, 2);
    SetInts(node, "pads", 4, 1);
    return node.output(0);
  }

  std::string AveragePool(const std::string& x, const std::string& name) {
    return Node("GlobalAveragePool", name, {x}).output(0);
  }

  std::string Flatten(const std::string& x, const std::string& name) {
    onnx::NodeProto& node = Node("Flatten", name, {x});
    SetInt(node, "axis", 1);
    return node.output(0);
  }

  // Writes `output`, the graph's own.
  void Linear(const std::string& x, const std::string& name,
              const std::string& output) {
    onnx::NodeProto& node =
        Node("Gemm", name, {x, name + ".weight", name + ".bias"});
    SetInt(node, "transB", 1);
    node.set_output(0, output);
  }

 private:
  onnx::NodeProto& Node(const char* type, const std::string& name,
                        std::initializer_list<std::string> inputs) {
    onnx::NodeProto& node = *graph_.add_node();
    node.set_op_type(type);
    node.set_name(name);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(name + ".out");
    return node;
  }

  static onnx::AttributeProto& Attribute(onnx::NodeProto& node,
                                         const char* name) {
    onnx::AttributeProto& attribute = *node.add_attribute();
    attribute.set_name(name);
    return attribute;
  }

  static void SetInt(onnx::NodeProto& node, const char* name, int64_t value) {
    onnx::AttributeProto& attribute = Attribute(node, name);
    attribute.set_type(onnx::AttributeProto::INT);
    attribute.set_i(value);
  }

  // `count` times the same `value`.
  static void SetInts(onnx::NodeProto& node, const char* name, int count,
                      int64_t value) {
    onnx::AttributeProto& attribute = Attribute(node, name);
    attribute.set_type(onnx::AttributeProto::INTS);
    for (int i = 0; i < count; ++i) attribute.add_ints(value);
  }

  onnx::GraphProto& graph_;
};

// As BasicBlockImpl in resnet18.h, whose names these are.
std::string AddBlock(GraphBuilder& graph, const std::string& x,
                     const std::string& name, int64_t stride, bool downsample) {
  std::string out = graph.Conv(x, name + ".conv1", 3, stride);
  out = graph.BatchNorm(out, name + ".bn1");
  out = graph.Relu(out, name + ".relu1");
  out = graph.Conv(out, name + ".conv2", 3, 1);
  out = graph.BatchNorm(out, name + ".bn2");
  std::string shortcut = x;
  if (downsample) {
    shortcut = graph.Conv(x, name + ".downsample.0", 1, stride);
    shortcut = graph.BatchNorm(shortcut, name + ".downsample.1");
  }
  out = graph.Add(out, shortcut, name + ".add");
  return graph.Relu(out, name + ".relu2");
}

void AddNodes(onnx::GraphProto& proto) {
  GraphBuilder graph(proto);
  std::string x = graph.Conv("image", "conv1", 7, 2);
  x = graph.BatchNorm(x, "bn1");
  x = graph.Relu(x, "relu");
  x = graph.MaxPool(x, "maxpool");
  for (int layer = 1; layer <= 4; ++layer) {
    const std::string name = absl::StrCat("layer", layer);
    x = AddBlock(graph, x, name + ".0", layer == 1 ? 1 : 2, layer > 1);
    x = AddBlock(graph, x, name + ".1", 1, false);
  }
  x = graph.AveragePool(x, "avgpool");
  x = graph.Flatten(x, "flatten");
  graph.Linear(x, "fc", "logits");
}

// A float32 tensor of [batch, `sides`...].
void Describe(const char* name, std::initializer_list<int64_t> sides,
              onnx::ValueInfoProto& value) {
  value.set_name(name);
  auto& tensor = *value.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(onnx::TensorProto::FLOAT);
  tensor.mutable_shape()->add_dim()->set_dim_param(kBatch);
  for (const int64_t side : sides) {
    tensor.mutable_shape()->add_dim()->set_dim_value(side);
  }
}

// Every weight that the nodes name, and no other.
absl::Status AddWeights(const Views& views, onnx::GraphProto& graph) {
  std::vector<std::string> names;
  for (const onnx::NodeProto& node : graph.node()) {
    for (const std::string& input : node.input()) {
      if (input != "image" && !absl::EndsWith(input, ".out")) {
        names.push_back(input);
      }
    }
  }
  for (const std::string& name : names) {
    const auto it = views.find(name);
    if (it == views.end() || it->second.type != "F32") {
      return absl::DataLossError(
          absl::StrCat("the weights have no float32 tensor ", name));
    }
    onnx::TensorProto& tensor = *graph.add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(onnx::TensorProto::FLOAT);
    for (const int64_t side : it->second.shape) tensor.add_dims(side);
    tensor.set_raw_data(it->second.data.data(), it->second.data.size());
  }
  return absl::OkStatus();
}

// What server/data/transforms does.
Json Preprocessing() {
  return {{"color", "RGB"},
          {"layout", "NCHW"},
          {"resize_shorter_side", 256},
          {"interpolation", "bilinear, antialiased"},
          {"center_crop", {kImageSide, kImageSide}},
          {"scale", "1/255"},
          {"mean", {0.485, 0.456, 0.406}},
          {"std", {0.229, 0.224, 0.225}}};
}

void AddMetadata(const v1::Model& model, onnx::ModelProto& proto) {
  const auto add = [&proto](const char* key, const Json& value) {
    auto& entry = *proto.add_metadata_props();
    entry.set_key(key);
    entry.set_value(value.dump(-1, ' ', false, Json::error_handler_t::replace));
  };
  add("labels",
      std::vector<std::string>(model.labels().begin(), model.labels().end()));
  add("preprocessing", Preprocessing());
  add("model", {{"name", model.ref().name()},
                {"version", model.ref().version()},
                {"job_id", model.job_id()},
                {"test_accuracy", model.test_accuracy()},
                {"weights_sha256", model.weights_sha256()},
                {"dataset_digest", model.dataset_digest()}});
}

absl::StatusOr<onnx::ModelProto> Build(const v1::Model& model,
                                       absl::string_view weights) {
  ASSIGN_OR_RETURN(const Views views, ViewSafetensors(weights));
  onnx::ModelProto proto;
  proto.set_ir_version(kIrVersion);
  proto.set_producer_name("finetuned");
  proto.set_model_version(model.ref().version());
  proto.add_opset_import()->set_version(kOpset);
  onnx::GraphProto& graph = *proto.mutable_graph();
  graph.set_name("resnet18");
  Describe("image", {3, kImageSide, kImageSide}, *graph.add_input());
  Describe("logits", {model.labels_size()}, *graph.add_output());
  AddNodes(graph);
  RETURN_IF_ERROR(AddWeights(views, graph));
  const std::vector<int64_t> head = {model.labels_size(), kFeatures};
  if (views.at("fc.weight").shape != head) {
    return absl::DataLossError(absl::StrCat("the weights are not those of ",
                                            model.labels_size(), " classes"));
  }
  AddMetadata(model, proto);
  return proto;
}

}  // namespace

absl::Status ExportOnnx(const v1::Model& model,
                        const std::filesystem::path& weights,
                        const std::filesystem::path& path) {
  absl::StatusOr<std::string> bytes = ReadFile(weights, kMaxWeightsBytes);
  RETURN_IF_ERROR(bytes.status());
  absl::StatusOr<onnx::ModelProto> proto = Build(model, *bytes);
  RETURN_IF_ERROR(proto.status());
  bytes->clear();
  bytes->shrink_to_fit();  // Its copy is in the message.
  std::string file;
  if (!proto->SerializeToString(&file)) {
    return absl::InternalError("the model cannot be written as ONNX");
  }
  return WriteFileAtomically(path, file);
}

}  // namespace finetune
