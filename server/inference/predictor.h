// A published model as a function from inputs to probabilities.

#ifndef SERVER_INFERENCE_PREDICTOR_H_
#define SERVER_INFERENCE_PREDICTOR_H_

#include <filesystem>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/inference/servable.h"

namespace finetune {

// Forward passes of one model at once on a GPU.
inline constexpr int kCudaWorkers = 2;

struct PredictorOptions {
  std::string device = "cpu";  // "cpu", "cuda:N".
  // The most that the function will be called with. A call with others is
  // right, but slower the first time.
  int threads = 1;
  int max_batch = 32;
  // What CUDA computes convolutions in: "fp32", "tf32" (float32 whose inputs
  // are rounded to 10 bits of mantissa), "fp16" or "bf16". Probabilities are
  // float32 in any case.
  std::string precision = "fp32";
  // Hears, while the model loads, of what will make it slower. May be empty.
  std::function<void(const std::string&)> on_warning;
  // For tests: called while each CUDA graph is recorded. May be empty.
  std::function<void()> while_recording;
};

// Loads the weights and makes ready all that batches of 1..max_batch inputs of
// kInputBytes pixels (data/normalize.h) need on one thread, and lone inputs
// on up to `threads`: the first answer is as quick as any. `bytes` are some
// 300 MB on a CPU, for batches of 8; each further call at once adds a
// workspace.
//
// NOT_FOUND or INVALID_ARGUMENT if the weights are missing or do not fit
// `classes`; INVALID_ARGUMENT for a precision that the device does not have;
// DATA_LOSS if the weights hold NaN or infinite numbers;
// RESOURCE_EXHAUSTED if the GPU's memory does not suffice.
// The function may throw what oneDNN and Torch throw.
absl::StatusOr<LoadedModel> LoadPredictor(const std::filesystem::path& weights,
                                          int64_t classes,
                                          const PredictorOptions& options);

}  // namespace finetune

#endif  // SERVER_INFERENCE_PREDICTOR_H_
