// The Open Inference Protocol's messages. All that comes over the wire is
// checked here, and nowhere else: what passes is within the ranges that the
// .proto file states. Field violations name a field by its path, and an image
// as "image[INDEX]", since it may have come in either of two fields.
//
// Free functions; thread-safe.

#ifndef SERVER_SERVICE_CONVERT_OPEN_INFERENCE_H_
#define SERVER_SERVICE_CONVERT_OPEN_INFERENCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "finetune/v1/model.pb.h"
#include "inference/open_inference.pb.h"
#include "server/inference/batcher.h"
#include "server/service/convert_inference.h"

namespace finetune {

// A model's tensors.
inline constexpr char kImageTensor[] = "image";
inline constexpr char kProbabilitiesTensor[] = "probabilities";
inline constexpr char kLabelTensor[] = "label";

struct InferOutput {
  std::string name;
  int top_k = 0;  // Of probabilities: so many as text; 0: all as numbers.
};

// A ModelInferRequest that has been checked.
struct InferCall {
  v1::ModelRef model;
  std::vector<absl::string_view> images;  // Into the request.
  std::vector<InferOutput> outputs;       // As they shall be answered.
  bool typed = false;  // Contents in fields, not raw; answered alike.
};

// INVALID_ARGUMENT with BadRequest if a field is out of its range.
absl::StatusOr<InferCall> ParseInferRequest(
    const inference::ModelInferRequest& request, const ClassifyLimits& limits);

// INVALID_ARGUMENT with BadRequest. `prefix` is what the fields' names begin
// with: "model_" for model_name and model_version, or nothing.
absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& name,
                                           const std::string& version,
                                           absl::string_view prefix);

// All but the id. INVALID_ARGUMENT with BadRequest naming the first image that
// could not be decoded. REQUIRES: the outcome is of the model's classes.
absl::StatusOr<inference::ModelInferResponse> ToInferResponse(
    const v1::Model& model, const InferCall& call,
    const ClassifyOutcome& outcome);

// `versions` are all of the model's name.
inference::ModelMetadataResponse ToModelMetadata(
    const v1::Model& model, absl::Span<const int64_t> versions);

inference::ModelConfig ToModelConfig(const v1::Model& model,
                                     const ClassifyLimits& limits);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_OPEN_INFERENCE_H_
