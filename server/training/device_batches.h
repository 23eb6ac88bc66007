// A loader's batches as normalised tensors on the device that trains.

#ifndef SERVER_TRAINING_DEVICE_BATCHES_H_
#define SERVER_TRAINING_DEVICE_BATCHES_H_

#include <optional>

#include "absl/status/statusor.h"
#include "c10/core/Event.h"
#include "c10/core/Stream.h"
#include "common/buffer.h"
#include "server/data/loader.h"
#include "server/model/pixel_normalizer.h"
#include "torch/torch.h"

namespace finetune {

// On a GPU the copies run on a stream of their own, beside the steps before,
// and what crosses the bus is pixels of 8 bits. Not thread-safe. Throws what
// Torch throws.
class DeviceBatches {
 public:
  struct OnDevice {
    torch::Tensor images;  // float32 [N, 3, 224, 224], channels-last.
    torch::Tensor labels;  // int64 [N].
  };

  // What suits the loader's batches. Empty pinned memory of an earlier loader
  // is used again.
  static AllocateFn AllocatorFor(torch::Device device);

  // `loader` must outlive this and have no other consumer.
  DeviceBatches(Loader& loader, torch::Device device);

  // The next batch, or nothing after the last; usable on the current stream,
  // until the next call. Errors are the loader's.
  absl::StatusOr<std::optional<OnDevice>> Next();

 private:
  OnDevice Normalized(const Batch& batch);
  OnDevice Uploaded(const Batch& batch);

  Loader& loader_;
  const torch::Device device_;
  // On a CPU: where every batch's images go, one after the other.
  torch::Tensor images_;
  // On a GPU:
  std::optional<PixelNormalizer> normalize_;
  std::optional<c10::Stream> copies_;
  std::optional<c10::Event> copied_;
};

}  // namespace finetune

#endif  // SERVER_TRAINING_DEVICE_BATCHES_H_
