// The words that classification is spoken of in: plain values, no Torch.

#ifndef SERVER_INFERENCE_SERVABLE_H_
#define SERVER_INFERENCE_SERVABLE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

// Softmax over the classes, by index.
using Probabilities = std::vector<float>;

// Decodes and transforms one encoded image to a model's input, the same for all
// models: 224 x 224 RGB pixels of 8 bits (data/normalize.h), which each model
// normalises itself. INVALID_ARGUMENT if it is no image or over a limit.
// Thread-safe.
using PreprocessFn = std::function<absl::Status(absl::string_view image,
                                                absl::Span<uint8_t> pixels)>;

// One forward pass: softmax of each input's pixels, in order, on at most
// `threads` threads of a CPU. Thread-safe; calls at once do not wait for each
// other on a CPU. May throw.
using ForwardFn = std::function<std::vector<Probabilities>(
    absl::Span<const uint8_t* const> inputs, int threads)>;

// A model's function and the memory that it holds.
struct LoadedModel {
  ForwardFn forward;
  uint64_t bytes = 0;
};

// One version of a model, warm and ready to answer. Its memory is freed when
// the last holder lets go of it.
struct Servable {
  v1::Model model;
  LoadedModel loaded;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_SERVABLE_H_
