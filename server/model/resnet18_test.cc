#include "server/model/resnet18.h"

#include "gtest/gtest.h"
#include "server/model/testing/golden_resnet18.h"

namespace finetune {
namespace {

torch::Tensor GoldenLogits() {
  const auto golden = testing::GoldenJson("resnet18/forward.json");
  std::vector<float> values;
  for (const auto& row : golden["logits"]) {
    for (const float logit : row) values.push_back(logit);
  }
  return torch::tensor(values).view({4, 5});
}

float MaxDifference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<float>();
}

TEST(ResNet18Test, LogitsAreTorchvisions) {
  ResNet18 net = testing::GoldenResNet18();
  net->eval();
  const torch::NoGradGuard no_grad;
  EXPECT_LE(MaxDifference(net->forward(testing::GoldenBatch()), GoldenLogits()),
            1e-4);
}

TEST(ResNet18Test, LogitsAreTorchvisionsInChannelsLastToo) {
  ResNet18 net = testing::GoldenResNet18();
  net->eval();
  ToChannelsLast(*net);
  const torch::NoGradGuard no_grad;
  const torch::Tensor batch =
      testing::GoldenBatch().contiguous(at::MemoryFormat::ChannelsLast);
  EXPECT_LE(MaxDifference(net->forward(batch), GoldenLogits()), 1e-4);
}

TEST(ResNet18Test, HasTorchvisionsTensors) {
  const auto tensors = testing::InPythonsOrder(ResNet18(1000));
  EXPECT_EQ(tensors.size(), 122u);
  EXPECT_EQ(tensors[0].first, "conv1.weight");
  EXPECT_EQ(tensors.back().first, "fc.bias");
  int64_t parameters = 0;
  for (const auto& parameter : ResNet18(1000)->parameters()) {
    parameters += parameter.numel();
  }
  EXPECT_EQ(parameters, 11'689'512);
}

TEST(ResNet18Test, ConvolutionsAreHeInitialised) {
  torch::manual_seed(0);
  const ResNet18 net(2);
  // Normal with variance 2 / fan out.
  const torch::Tensor weight = net->named_parameters()["layer4.1.conv2.weight"];
  EXPECT_NEAR(weight.std().item<double>(), std::sqrt(2.0 / (512 * 9)), 2e-4);
  EXPECT_NEAR(weight.mean().item<double>(), 0, 1e-4);
  const torch::Tensor bn = net->named_parameters()["layer4.1.bn2.weight"];
  EXPECT_EQ(bn.min().item<float>(), 1);
}

TEST(ResNet18Test, SameSeedSameWeights) {
  torch::manual_seed(5);
  const ResNet18 a(3);
  torch::manual_seed(5);
  const ResNet18 b(3);
  EXPECT_TRUE(torch::equal(a->fc->weight, b->fc->weight));
  EXPECT_TRUE(torch::equal(a->conv1->weight, b->conv1->weight));
}

}  // namespace
}  // namespace finetune
