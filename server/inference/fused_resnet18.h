// ResNet18's forward pass on a CPU, by oneDNN itself: batch norm folded into
// the convolutions, ReLU and the residual sum fused into them, weights laid out
// once as each kernel wants them, and Winograd's algorithm for the 3x3
// convolutions of stride 1 where oneDNN has it. It takes half of the
// multiplications away that bound a direct convolution.
//
// No Torch here: its include folder holds another version of oneDNN.

#ifndef SERVER_INFERENCE_FUSED_RESNET18_H_
#define SERVER_INFERENCE_FUSED_RESNET18_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"

namespace finetune {

// A convolution, or fc as one of a single pixel. The padding is kernel / 2.
struct FoldedLayer {
  int64_t in = 0, out = 0;  // Channels.
  int64_t kernel = 1, stride = 1;
  std::vector<float> weights;  // [out][in][kernel][kernel].
  std::vector<float> bias;     // [out].
};

// In the order of ResNet18's modules. `downsample` has no weights where the
// block's shortcut is its input.
struct FoldedResNet18 {
  struct Block {
    FoldedLayer conv1, conv2, downsample;
  };
  FoldedLayer conv1;
  std::vector<Block> blocks;
  FoldedLayer fc;
};

// Thread-safe: the weights are shared, and each call at once has a workspace of
// its own. On a CPU without AVX-512 it is as right, only slower.
class FusedResNet18 {
 public:
  // Throws dnnl::error (a std::exception) or std::bad_alloc, as all methods.
  explicit FusedResNet18(FoldedResNet18 net);
  ~FusedResNet18();

  FusedResNet18(const FusedResNet18&) = delete;
  FusedResNet18& operator=(const FusedResNet18&) = delete;

  // Prepares all that Forward needs for 1..max_batch images on `threads`
  // threads; what was not prepared is when it is first needed, some 10 ms each.
  void Warm(int max_batch, int threads);

  // Logits [N][classes] of N inputs of kInputBytes pixels (data/normalize.h)
  // on `threads` >= 1 threads, the calling one and helpers that sleep until it
  // calls again. The same number of inputs on as many threads gives the same
  // bits; another number of either, or another place in the batch, differs by
  // rounding.
  std::vector<float> Forward(absl::Span<const uint8_t* const> inputs,
                             int threads);

  // Memory held: weights in all their layouts, and workspaces.
  uint64_t bytes() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_FUSED_RESNET18_H_
