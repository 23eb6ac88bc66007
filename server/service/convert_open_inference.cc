// What goes out; what comes in is in parse_open_inference.cc.

#include "server/service/convert_open_inference.h"

#include <bit>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

static_assert(std::endian::native == std::endian::little,
              "raw contents are little-endian");

constexpr char kBytes[] = "BYTES";
constexpr char kFloat[] = "FP32";
constexpr char kPlatform[] = "finetuned_resnet18";
constexpr char kBackend[] = "finetuned";

using OutputTensor = inference::ModelInferResponse::InferOutputTensor;

absl::Status CheckDecoded(const ClassifyOutcome& outcome) {
  for (size_t i = 0; i < outcome.images.size(); ++i) {
    const absl::Status& status = outcome.images[i].status();
    if (absl::IsInvalidArgument(status)) {
      return InvalidFieldError(
          absl::StrCat(kImageTensor, "[", i, "]"),
          absl::StrCat("an image that can be decoded: ", status.message()));
    }
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

// `elements` in all, the images one after another.
OutputTensor& AddTensor(const char* name, const char* datatype, size_t images,
                        size_t elements,
                        inference::ModelInferResponse& response) {
  OutputTensor& tensor = *response.add_outputs();
  tensor.set_name(name);
  tensor.set_datatype(datatype);
  tensor.add_shape(static_cast<int64_t>(images));
  tensor.add_shape(static_cast<int64_t>(elements / images));
  return tensor;
}

void AddProbabilities(const ClassifyOutcome& outcome, bool typed,
                      inference::ModelInferResponse& response) {
  std::vector<float> all;
  for (const auto& image : outcome.images) {
    all.insert(all.end(), image->begin(), image->end());
  }
  OutputTensor& tensor = AddTensor(kProbabilitiesTensor, kFloat,
                                   outcome.images.size(), all.size(), response);
  if (typed) {
    tensor.mutable_contents()->mutable_fp32_contents()->Add(all.begin(),
                                                            all.end());
  } else {
    response.add_raw_output_contents(all.data(), all.size() * sizeof(float));
  }
}

void AddTexts(const char* name, const std::vector<std::string>& texts,
              size_t images, bool typed,
              inference::ModelInferResponse& response) {
  OutputTensor& tensor =
      AddTensor(name, kBytes, images, texts.size(), response);
  if (typed) {
    tensor.mutable_contents()->mutable_bytes_contents()->Add(texts.begin(),
                                                             texts.end());
    return;
  }
  std::string& raw = *response.add_raw_output_contents();
  for (const std::string& text : texts) {
    const auto length = static_cast<uint32_t>(text.size());
    raw.append(reinterpret_cast<const char*>(&length), sizeof(length));
    raw.append(text);
  }
}

// Of each image the `top_k` best classes, as `text` puts them.
template <typename Text>
std::vector<std::string> BestClasses(const v1::Model& model,
                                     const ClassifyOutcome& outcome, int top_k,
                                     Text text) {
  std::vector<std::string> texts;
  const v1::ClassifyResponse ranked = ToClassifyResponse(model, top_k, outcome);
  for (const v1::ClassifyResult& result : ranked.results()) {
    for (const v1::ClassScore& score : result.scores()) {
      texts.push_back(text(score));
    }
  }
  return texts;
}

std::string ProbabilityIndexLabel(const v1::ClassScore& score) {
  return absl::StrFormat("%f:%d:%s", score.probability(), score.class_index(),
                         score.label());
}

}  // namespace

absl::StatusOr<inference::ModelInferResponse> ToInferResponse(
    const v1::Model& model, const InferCall& call,
    const ClassifyOutcome& outcome) {
  RETURN_IF_ERROR(CheckDecoded(outcome));
  inference::ModelInferResponse response;
  response.set_model_name(model.ref().name());
  response.set_model_version(absl::StrCat(model.ref().version()));
  const size_t images = outcome.images.size();
  for (const InferOutput& output : call.outputs) {
    if (output.name == kLabelTensor) {
      AddTexts(kLabelTensor,
               BestClasses(model, outcome, 1,
                           [](const auto& score) { return score.label(); }),
               images, call.typed, response);
    } else if (output.top_k > 0) {
      AddTexts(kProbabilitiesTensor,
               BestClasses(model, outcome, output.top_k, ProbabilityIndexLabel),
               images, call.typed, response);
    } else {
      AddProbabilities(outcome, call.typed, response);
    }
  }
  return response;
}

inference::ModelMetadataResponse ToModelMetadata(
    const v1::Model& model, absl::Span<const int64_t> versions) {
  inference::ModelMetadataResponse metadata;
  metadata.set_name(model.ref().name());
  for (const int64_t version : versions) {
    metadata.add_versions(absl::StrCat(version));
  }
  metadata.set_platform(kPlatform);
  const auto fill = [](auto* tensor, const char* name, const char* datatype,
                       int64_t width) {
    tensor->set_name(name);
    tensor->set_datatype(datatype);
    tensor->add_shape(-1);
    tensor->add_shape(width);
  };
  fill(metadata.add_inputs(), kImageTensor, kBytes, 1);
  fill(metadata.add_outputs(), kProbabilitiesTensor, kFloat,
       model.labels_size());
  fill(metadata.add_outputs(), kLabelTensor, kBytes, 1);
  return metadata;
}

inference::ModelConfig ToModelConfig(const v1::Model& model,
                                     const ClassifyLimits& limits) {
  inference::ModelConfig config;
  config.set_name(model.ref().name());
  config.set_platform(kPlatform);
  config.set_backend(kBackend);
  config.mutable_version_policy()->mutable_all();
  config.set_max_batch_size(limits.max_images);
  const auto fill = [](auto* tensor, const char* name, inference::DataType type,
                       int64_t width) {
    tensor->set_name(name);
    tensor->set_data_type(type);
    tensor->add_dims(width);
  };
  fill(config.add_input(), kImageTensor, inference::TYPE_STRING, 1);
  fill(config.add_output(), kProbabilitiesTensor, inference::TYPE_FP32,
       model.labels_size());
  fill(config.add_output(), kLabelTensor, inference::TYPE_STRING, 1);
  config.mutable_dynamic_batching();
  return config;
}

}  // namespace finetune
