// From the net that was trained to the one that is served.

#ifndef SERVER_INFERENCE_FOLD_RESNET18_H_
#define SERVER_INFERENCE_FOLD_RESNET18_H_

#include "server/inference/fused_resnet18.h"
#include "server/model/resnet18.h"

namespace finetune {

// Each batch norm, with its running statistics, as part of the convolution
// before it: w * gamma / sqrt(var + eps), computed in double. REQUIRES: `net`
// is on the CPU.
FoldedResNet18 Fold(const ResNet18Impl& net);

}  // namespace finetune

#endif  // SERVER_INFERENCE_FOLD_RESNET18_H_
