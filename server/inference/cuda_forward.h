// The forward pass on a GPU.

#ifndef SERVER_INFERENCE_CUDA_FORWARD_H_
#define SERVER_INFERENCE_CUDA_FORWARD_H_

#include "server/inference/predictor.h"
#include "server/inference/servable.h"
#include "server/model/resnet18.h"

namespace finetune {

// Channels-last, in options.precision, through pinned memory on a stream of its
// own, one pass at a time. Batches are padded to powers of two, so that few
// sizes occur; each is a CUDA graph, recorded here, or runs eagerly if
// recording fails or this LibTorch has no CUDA. Throws what Torch throws.
LoadedModel LoadOnCuda(ResNet18 net, const PredictorOptions& options);

}  // namespace finetune

#endif  // SERVER_INFERENCE_CUDA_FORWARD_H_
