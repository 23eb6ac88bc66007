// Which parameter learns how fast, and what the optimizer remembers of it.

#ifndef SERVER_TRAINING_PARAM_GROUPS_H_
#define SERVER_TRAINING_PARAM_GROUPS_H_

#include "absl/status/status.h"
#include "finetune/v1/job.pb.h"
#include "server/model/weights.h"
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

// As sgd.step(), but with one kernel for many parameters, where that has
// several for each: on a GPU the CPU is else busy for longer than the step.
// Rounds otherwise by an ulp. Not with dampening.
void FusedStep(torch::optim::SGD& sgd);

// FusedStep on a GPU; on a CPU sgd.step(), whose bits checkpoints rely on.
void Step(torch::optim::SGD& sgd);

// The momentum buffers of `sgd` by the names of their parameters in `model`,
// copied to the CPU. Empty without momentum, or before the first step.
StateDict MomentumOf(const torch::nn::Module& model,
                     const torch::optim::SGD& sgd);

// The reverse: `sgd` goes on as if it had made those steps itself. The buffers
// get the memory layout of their parameters, which is also that of gradients.
//
// INVALID_ARGUMENT if a parameter has no buffer, or one of another shape or
// type; `sgd` is then of no use. An empty `momentum` is that of no steps.
absl::Status LoadMomentum(const StateDict& momentum,
                          const torch::nn::Module& model,
                          torch::optim::SGD& sgd);

}  // namespace finetune

#endif  // SERVER_TRAINING_PARAM_GROUPS_H_
