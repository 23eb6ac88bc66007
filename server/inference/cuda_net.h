// ResNet18's layers as cuDNN's fused convolutions on a GPU.

#ifndef SERVER_INFERENCE_CUDA_NET_H_
#define SERVER_INFERENCE_CUDA_NET_H_

#include <cstdint>
#include <vector>

#include "server/inference/fused_resnet18.h"
#include "server/model/pixel_normalizer.h"
#include "torch/torch.h"

namespace finetune {

// Channels-last, with batch norm folded in double precision before anything is
// rounded; bias, ReLU and the residual sum are part of the convolutions. fc is
// a convolution too, so that cuBLAS and its workspace are not needed. Not
// thread-safe. Throws what Torch throws.
class CudaNet {
 public:
  // `type`: kFloat, kHalf or kBFloat16. Uploads on the current stream.
  CudaNet(const FoldedResNet18& net, torch::Device device, torch::Dtype type);

  // uint8 [N, 224, 224, 3] on the device to probabilities, float32 [N,
  // classes].
  torch::Tensor Forward(const torch::Tensor& pixels) const;

  int64_t classes() const { return fc_.weights.size(0); }

 private:
  struct Layer {
    torch::Tensor weights, bias;
    int64_t stride = 1, padding = 0;
  };
  struct Block {
    Layer conv1, conv2, downsample;  // `downsample.weights` may be undefined.
  };

  Layer Upload(const FoldedLayer& layer) const;
  torch::Tensor RunBlock(const Block& block, const torch::Tensor& x) const;

  const torch::TensorOptions options_;
  const PixelNormalizer normalize_;
  Layer conv1_, fc_;
  std::vector<Block> blocks_;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_CUDA_NET_H_
