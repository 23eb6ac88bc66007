// A published model as a function from encoded images to probabilities.

#ifndef SERVER_INFERENCE_PREDICTOR_H_
#define SERVER_INFERENCE_PREDICTOR_H_

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "server/data/decode.h"
#include "server/inference/servable.h"

namespace finetune {

struct PredictorOptions {
  std::string device = "cpu";  // "cpu", "cuda:N".
  int threads = 1;             // For decoding and, on a CPU, computing; >= 1.
  DecodeLimits limits;
};

// Loads the weights and warms them up: the first answer is as quick as any.
// The same transform and forward pass that measured test accuracy while the
// model was trained.
//
// NOT_FOUND or INVALID_ARGUMENT if the weights are missing or do not fit
// `classes`. The function may throw what Torch throws.
absl::StatusOr<ClassifyFn> LoadPredictor(const std::filesystem::path& weights,
                                         int64_t classes,
                                         const PredictorOptions& options);

}  // namespace finetune

#endif  // SERVER_INFERENCE_PREDICTOR_H_
