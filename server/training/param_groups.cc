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
