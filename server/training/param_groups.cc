#include "server/training/param_groups.h"

#include <memory>
#include <utility>
#include <vector>

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

}  // namespace finetune
