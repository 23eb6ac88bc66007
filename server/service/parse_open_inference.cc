// Of convert_open_inference.h: what comes in.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_open_inference.h"
#include "server/service/names.h"

namespace finetune {
namespace {

static_assert(std::endian::native == std::endian::little,
              "raw contents are little-endian");

constexpr char kClassification[] = "classification";
constexpr size_t kLengthBytes = sizeof(uint32_t);

using Images = std::vector<absl::string_view>;
using InputTensor = inference::ModelInferRequest::InferInputTensor;
using RequestedOutput =
    inference::ModelInferRequest::InferRequestedOutputTensor;

absl::Status CheckInput(const InputTensor& input) {
  if (input.name() != kImageTensor) {
    return InvalidFieldError("inputs[0].name", "\"image\"");
  }
  if (input.datatype() != "BYTES") {
    return InvalidFieldError("inputs[0].datatype", "\"BYTES\"");
  }
  if (!input.parameters().empty()) {
    return InvalidFieldError("inputs[0].parameters",
                             "empty; there is no shared memory here");
  }
  return absl::OkStatus();
}

// The number of images.
absl::StatusOr<int> ParseShape(const InputTensor& input,
                               const ClassifyLimits& limits) {
  const auto& shape = input.shape();
  if (shape.empty() || shape.size() > 2 || shape[0] < 1 ||
      shape[0] > limits.max_images || (shape.size() == 2 && shape[1] != 1)) {
    return InvalidFieldError(
        "inputs[0].shape",
        absl::StrCat("[N] or [N, 1] with N of 1..", limits.max_images));
  }
  return static_cast<int>(shape[0]);
}

absl::StatusOr<Images> SplitRaw(absl::string_view raw, int count) {
  const auto bad = [count](const std::string& what) {
    return InvalidFieldError(
        "raw_input_contents[0]",
        absl::StrCat(count, " images as the shape says, each its length in 4 ",
                     "bytes, little-endian, and so many bytes; ", what));
  };
  Images images;
  for (int i = 0; i < count; ++i) {
    if (raw.size() < kLengthBytes) {
      return bad(absl::StrCat("it ends before image ", i));
    }
    uint32_t length = 0;
    std::memcpy(&length, raw.data(), kLengthBytes);
    raw.remove_prefix(kLengthBytes);
    if (length > raw.size()) {
      return bad(absl::StrCat("of image ", i, ", ", length, " bytes, only ",
                              raw.size(), " are there"));
    }
    images.push_back(raw.substr(0, length));
    raw.remove_prefix(length);
  }
  if (!raw.empty()) return bad(absl::StrCat(raw.size(), " bytes are left"));
  return images;
}

absl::StatusOr<Images> SplitTyped(
    const inference::InferTensorContents& contents, int count) {
  if (contents.bytes_contents_size() != count) {
    return InvalidFieldError(
        "inputs[0].contents.bytes_contents",
        absl::StrCat(count, " images as the shape says, not ",
                     contents.bytes_contents_size()));
  }
  return Images(contents.bytes_contents().begin(),
                contents.bytes_contents().end());
}

absl::StatusOr<Images> ParseImages(const inference::ModelInferRequest& request,
                                   const ClassifyLimits& limits) {
  if (request.inputs_size() != 1) {
    return InvalidFieldError(
        "inputs",
        absl::StrCat("one tensor, \"image\", not ", request.inputs_size()));
  }
  const InputTensor& input = request.inputs(0);
  RETURN_IF_ERROR(CheckInput(input));
  ASSIGN_OR_RETURN(const int count, ParseShape(input, limits));
  if (request.raw_input_contents_size() != (input.has_contents() ? 0 : 1)) {
    return InvalidFieldError(
        "raw_input_contents",
        "one entry, or none where inputs[0].contents is given");
  }
  ASSIGN_OR_RETURN(Images images,
                   input.has_contents()
                       ? SplitTyped(input.contents(), count)
                       : SplitRaw(request.raw_input_contents(0), count));
  for (size_t i = 0; i < images.size(); ++i) {
    RETURN_IF_ERROR(
        CheckImage(absl::StrCat(kImageTensor, "[", i, "]"), images[i], limits));
  }
  return images;
}

absl::StatusOr<InferOutput> ParseOutput(const RequestedOutput& wanted,
                                        const std::string& field) {
  if (wanted.name() != kProbabilitiesTensor && wanted.name() != kLabelTensor) {
    return InvalidFieldError(absl::StrCat(field, ".name"),
                             "\"probabilities\" or \"label\"");
  }
  InferOutput output{.name = wanted.name()};
  for (const auto& [name, value] : wanted.parameters()) {
    if (name != kClassification || wanted.name() != kProbabilitiesTensor) {
      return InvalidFieldError(
          absl::StrCat(field, ".parameters"),
          "empty, or for \"probabilities\" `classification` alone");
    }
    if (value.int64_param() < 1 || value.int64_param() > kMaxTopK) {
      return InvalidFieldError(
          absl::StrCat(field, ".parameters[classification]"),
          absl::StrCat("an int64_param of 1..", kMaxTopK));
    }
    output.top_k = static_cast<int>(value.int64_param());
  }
  return output;
}

absl::StatusOr<std::vector<InferOutput>> ParseOutputs(
    const inference::ModelInferRequest& request) {
  std::vector<InferOutput> outputs;
  if (request.outputs().empty()) {
    outputs = {{.name = kProbabilitiesTensor}, {.name = kLabelTensor}};
  }
  for (const RequestedOutput& wanted : request.outputs()) {
    const std::string field = absl::StrCat("outputs[", outputs.size(), "]");
    ASSIGN_OR_RETURN(InferOutput output, ParseOutput(wanted, field));
    for (const InferOutput& other : outputs) {
      if (other.name == output.name) {
        return InvalidFieldError(absl::StrCat(field, ".name"),
                                 "another one than those before it");
      }
    }
    outputs.push_back(std::move(output));
  }
  return outputs;
}

}  // namespace

absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& name,
                                           const std::string& version,
                                           absl::string_view prefix) {
  v1::ModelRef ref;
  if (!name.empty() && !IsModelName(name)) {
    return InvalidFieldError(absl::StrCat(prefix, "name"),
                             "empty, or 1..63 of a-z, 0-9 and '-'");
  }
  ref.set_name(name);
  if (version.empty()) return ref;
  int64_t number = 0;
  // SimpleAtoi alone would take a sign and spaces.
  if (!std::all_of(version.begin(), version.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(version, &number) || number < 1) {
    return InvalidFieldError(absl::StrCat(prefix, "version"),
                             "empty, or a decimal number of 1 or above");
  }
  if (name.empty()) {
    return InvalidFieldError(
        absl::StrCat(prefix, "name"),
        absl::StrCat("given where ", prefix, "version is"));
  }
  ref.set_version(number);
  return ref;
}

absl::StatusOr<InferCall> ParseInferRequest(
    const inference::ModelInferRequest& request, const ClassifyLimits& limits) {
  InferCall call;
  ASSIGN_OR_RETURN(
      call.model,
      ParseModelRef(request.model_name(), request.model_version(), "model_"));
  ASSIGN_OR_RETURN(call.images, ParseImages(request, limits));
  ASSIGN_OR_RETURN(call.outputs, ParseOutputs(request));
  call.typed = request.inputs(0).has_contents();
  return call;
}

}  // namespace finetune
