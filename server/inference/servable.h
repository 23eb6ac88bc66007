// The words that classification is spoken of in: plain values, no Torch.

#ifndef SERVER_INFERENCE_SERVABLE_H_
#define SERVER_INFERENCE_SERVABLE_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

// Softmax over the classes, by index.
using Probabilities = std::vector<float>;

struct BatchResult {
  // One per image, in order: a bad image fails alone.
  std::vector<absl::StatusOr<Probabilities>> images;
  absl::Duration preprocess;  // Decode and transform.
  absl::Duration compute;     // Forward pass.
};

// Classifies encoded images in one forward pass. Not called twice at once.
using ClassifyFn =
    std::function<BatchResult(absl::Span<const absl::string_view> images)>;

// One version of a model, ready to answer. Its memory is freed when the last
// holder lets go of it.
struct Servable {
  v1::Model model;
  ClassifyFn classify;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_SERVABLE_H_
