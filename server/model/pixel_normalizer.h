// Pixels of 8 bits to the network's input, on a device.

#ifndef SERVER_MODEL_PIXEL_NORMALIZER_H_
#define SERVER_MODEL_PIXEL_NORMALIZER_H_

#include "torch/torch.h"

namespace finetune {

// As NormalizeChannelsLast of data/normalize.h, but by a multiplication and an
// addition: an ulp or two from it. Throws what Torch throws.
class PixelNormalizer {
 public:
  explicit PixelNormalizer(torch::Device device);

  // uint8 [N, H, W, 3] to float32 [N, 3, H, W], channels-last, on the current
  // stream. Both are on the device.
  torch::Tensor operator()(const torch::Tensor& pixels) const;

 private:
  torch::Tensor scale_, shift_;  // float32 [1, 3, 1, 1].
};

}  // namespace finetune

#endif  // SERVER_MODEL_PIXEL_NORMALIZER_H_
