// Which parameter learns how fast.

#ifndef SERVER_TRAINING_PARAM_GROUPS_H_
#define SERVER_TRAINING_PARAM_GROUPS_H_

#include "finetune/v1/training_service.pb.h"
#include "torch/torch.h"

namespace finetune {

// SGD over two groups: [0] the pretrained features at `learning_rate`, [1] the
// new head, all parameters named "fc.*", at `head_learning_rate`. Momentum and
// weight decay (L2, added to the gradient) are the same in both and reach
// every parameter, batch norm's included, as in the recipe.
//
// REQUIRES: `model` has an "fc" submodule; all four numbers are present.
torch::optim::SGD TwoGroupSgd(const torch::nn::Module& model,
                              const v1::HyperParameters& hyper_parameters);

}  // namespace finetune

#endif  // SERVER_TRAINING_PARAM_GROUPS_H_
