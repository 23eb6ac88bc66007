#include "server/training/param_groups.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace finetune {

torch::optim::SGD TwoGroupSgd(const torch::nn::Module& model,
                              const v1::HyperParameters& hyper_parameters) {
  std::vector<torch::Tensor> features, head;
  for (const auto& named : model.named_parameters()) {
    (named.key().starts_with("fc.") ? head : features).push_back(named.value());
  }
  const auto options = [&](double learning_rate) {
    return torch::optim::SGDOptions(learning_rate)
        .momentum(hyper_parameters.momentum())
        .weight_decay(hyper_parameters.weight_decay());
  };
  const auto group = [&](std::vector<torch::Tensor> parameters, double rate) {
    return torch::optim::OptimizerParamGroup(
        std::move(parameters),
        std::make_unique<torch::optim::SGDOptions>(options(rate)));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.push_back(
      group(std::move(features), hyper_parameters.learning_rate()));
  groups.push_back(
      group(std::move(head), hyper_parameters.head_learning_rate()));
  return torch::optim::SGD(std::move(groups),
                           options(hyper_parameters.learning_rate()));
}

namespace {

// The buffer of `parameter`, made where there is none.
torch::Tensor MomentumBuffer(torch::optim::SGD& sgd,
                             const torch::Tensor& parameter) {
  auto& state = sgd.state()[parameter.unsafeGetTensorImpl()];
  if (state == nullptr) {
    auto made = std::make_unique<torch::optim::SGDParamState>();
    made->momentum_buffer(torch::zeros_like(parameter));
    state = std::move(made);
  }
  return static_cast<torch::optim::SGDParamState&>(*state).momentum_buffer();
}

}  // namespace

void Step(torch::optim::SGD& sgd) {
  if (sgd.param_groups()[0].params()[0].is_cuda()) {
    FusedStep(sgd);
  } else {
    sgd.step();
  }
}

void FusedStep(torch::optim::SGD& sgd) {
  const torch::NoGradGuard no_grad;
  for (auto& group : sgd.param_groups()) {
    const auto& options =
        static_cast<torch::optim::SGDOptions&>(group.options());
    std::vector<torch::Tensor> parameters, gradients, momentum;
    for (const torch::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      parameters.push_back(parameter);
      gradients.push_back(parameter.grad());
      if (options.momentum() == 0) continue;
      momentum.push_back(MomentumBuffer(sgd, parameter));
    }
    // Buffers of zeros make the first step's momentum its gradient.
    at::_fused_sgd_(parameters, gradients, momentum, options.weight_decay(),
                    options.momentum(), options.lr(), /*dampening=*/0,
                    options.nesterov(), /*maximize=*/false,
                    /*is_first_step=*/false);
  }
}

StateDict MomentumOf(const torch::nn::Module& model,
                     const torch::optim::SGD& sgd) {
  StateDict momentum;
  for (const auto& named : model.named_parameters()) {
    const auto it = sgd.state().find(named.value().unsafeGetTensorImpl());
    if (it == sgd.state().end()) continue;
    momentum[named.key()] =
        static_cast<const torch::optim::SGDParamState&>(*it->second)
            .momentum_buffer()
            .to(torch::kCPU, /*non_blocking=*/false, /*copy=*/true)
            .contiguous();
  }
  return momentum;
}

absl::Status LoadMomentum(const StateDict& momentum,
                          const torch::nn::Module& model,
                          torch::optim::SGD& sgd) {
  sgd.state().clear();
  if (momentum.empty()) return absl::OkStatus();
  const torch::NoGradGuard no_grad;
  for (const auto& named : model.named_parameters()) {
    const torch::Tensor& parameter = named.value();
    const auto it = momentum.find(named.key());
    if (it == momentum.end() || it->second.sizes() != parameter.sizes() ||
        it->second.scalar_type() != parameter.scalar_type()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no momentum that fits ", named.key()));
    }
    auto state = std::make_unique<torch::optim::SGDParamState>();
    state->momentum_buffer(torch::empty_like(parameter).copy_(it->second));
    sgd.state()[parameter.unsafeGetTensorImpl()] = std::move(state);
  }
  return absl::OkStatus();
}

}  // namespace finetune
