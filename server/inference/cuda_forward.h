// The forward pass on a GPU.

#ifndef SERVER_INFERENCE_CUDA_FORWARD_H_
#define SERVER_INFERENCE_CUDA_FORWARD_H_

#include "server/inference/fused_resnet18.h"
#include "server/inference/predictor.h"
#include "server/inference/servable.h"

namespace finetune {

// Computes in options.precision, batches padded to powers of two, so that few
// sizes occur; each is a CUDA graph, or runs eagerly if recording fails. Up to
// kCudaWorkers calls at once: the copies of one go on beside the kernels of
// another. `bytes` is the GPU memory that the load took. Throws what Torch
// throws. REQUIRES: this LibTorch has CUDA.
LoadedModel LoadOnCuda(const FoldedResNet18& net,
                       const PredictorOptions& options);

}  // namespace finetune

#endif  // SERVER_INFERENCE_CUDA_FORWARD_H_
