// The ResNet18 and the batch of the golden files in server/testdata/resnet18:
// every value is a formula of its index, the same here and in
// scripts/make_golden.py, so that no weights need to be kept.

#ifndef SERVER_MODEL_TESTING_GOLDEN_RESNET18_H_
#define SERVER_MODEL_TESTING_GOLDEN_RESNET18_H_

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/model/resnet18.h"
#include "server/testing/test_data.h"
#include "torch/torch.h"

namespace finetune::testing {

// x in [0, 1) for element i of tensor number t.
inline double GoldenUniform(uint64_t t, uint64_t i) {
  auto u = static_cast<uint32_t>(i * 2654435761u +
                                 (t + 1) * 40503u * uint64_t{65537} + 12345u);
  u ^= u >> 16;
  u *= 0x45d9f3bu;
  u ^= u >> 16;
  return u / 4294967296.0;
}

inline double GoldenValue(const std::string& name, const torch::Tensor& tensor,
                          double x) {
  if (name == "fc.bias") return (2 * x - 1) * 0.1;
  if (name.ends_with("running_var")) return 0.5 + x;
  if (name.ends_with("running_mean")) return (2 * x - 1) * 0.2;
  if (name.ends_with("bias")) return 0.05 + 0.2 * x;
  if (tensor.dim() == 1) return 0.1 + 0.2 * x;
  const double fan_in =
      static_cast<double>(tensor.numel()) / static_cast<double>(tensor.size(0));
  return (2 * x - 1) * std::sqrt(3.0) * std::sqrt(2 / fan_in);
}

// Python's order: each module's parameters, then its buffers, in order of
// registration.
inline std::vector<std::pair<std::string, torch::Tensor>> InPythonsOrder(
    const ResNet18& net) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& module : net->named_modules("", /*include_self=*/false)) {
    const auto add = [&](const auto& named) {
      for (const auto& item : named) {
        tensors.emplace_back(module.key() + "." + item.key(), item.value());
      }
    };
    add(module.value()->named_parameters(/*recurse=*/false));
    add(module.value()->named_buffers(/*recurse=*/false));
  }
  return tensors;
}

// With 5 classes.
inline ResNet18 GoldenResNet18() {
  ResNet18 net(5);
  const torch::NoGradGuard no_grad;
  uint64_t t = 0;
  for (const auto& [name, tensor] : InPythonsOrder(net)) {
    if (name.ends_with("num_batches_tracked")) continue;
    std::vector<float> values(tensor.numel());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] =
          static_cast<float>(GoldenValue(name, tensor, GoldenUniform(t, i)));
    }
    tensor.copy_(torch::tensor(values).view(tensor.sizes()));
    ++t;
  }
  return net;
}

inline torch::Tensor GoldenBatch() {
  std::vector<float> values(4 * 3 * 96 * 96);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((2 * GoldenUniform(1000, i) - 1) * 2);
  }
  return torch::tensor(values).view({4, 3, 96, 96});
}

inline nlohmann::json GoldenJson(const std::string& name) {
  std::ifstream file(TestData() / name);
  return nlohmann::json::parse(file);
}

}  // namespace finetune::testing

#endif  // SERVER_MODEL_TESTING_GOLDEN_RESNET18_H_
