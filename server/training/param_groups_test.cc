#include "server/training/param_groups.h"

#include "gtest/gtest.h"
#include "server/model/testing/golden_resnet18.h"
#include "server/model/weights.h"

namespace finetune {
namespace {

v1::HyperParameters Recipe(double weight_decay) {
  v1::HyperParameters p;
  p.set_learning_rate(0.01);
  p.set_head_learning_rate(0.1);
  p.set_weight_decay(weight_decay);
  p.set_momentum(0);
  return p;
}

TEST(TwoGroupSgdTest, EveryParameterIsInExactlyOneGroup) {
  const ResNet18 net(2);
  const torch::optim::SGD sgd = TwoGroupSgd(*net, Recipe(0.001));
  const auto& groups = sgd.param_groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].params().size(), 60u);
  ASSERT_EQ(groups[1].params().size(), 2u);
  EXPECT_TRUE(groups[1].params()[0].is_same(net->fc->weight));
  EXPECT_TRUE(groups[1].params()[1].is_same(net->fc->bias));
  for (const auto& group : groups) {
    const auto& options =
        static_cast<const torch::optim::SGDOptions&>(group.options());
    EXPECT_DOUBLE_EQ(options.lr(), &group == &groups[0] ? 0.01 : 0.1);
    EXPECT_DOUBLE_EQ(options.weight_decay(), 0.001);
  }
}

TEST(FusedStepTest, IsTheOptimizersStepWithAndWithoutMomentum) {
  const torch::Tensor batch = testing::GoldenBatch();
  const torch::Tensor labels = torch::tensor({0, 1, 2, 3}, torch::kInt64);
  for (const double momentum : {0.0, 0.9}) {
    ResNet18 plain = testing::GoldenResNet18();
    ResNet18 fused = testing::GoldenResNet18();
    v1::HyperParameters recipe = Recipe(0.001);
    recipe.set_momentum(momentum);
    torch::optim::SGD plain_sgd = TwoGroupSgd(*plain, recipe);
    torch::optim::SGD fused_sgd = TwoGroupSgd(*fused, recipe);
    for (int step = 0; step < 3; ++step) {
      for (const auto& [net, sgd] :
           {std::pair(&plain, &plain_sgd), std::pair(&fused, &fused_sgd)}) {
        sgd->zero_grad();
        torch::nn::functional::cross_entropy((*net)->forward(batch), labels)
            .backward();
      }
      plain_sgd.step();
      FusedStep(fused_sgd);
    }
    const StateDict expected = StateDictOf(*plain);
    for (const auto& [name, tensor] : StateDictOf(*fused)) {
      EXPECT_TRUE(tensor.allclose(expected.at(name), 1e-4, 1e-5)) << name;
    }
    const StateDict buffers = MomentumOf(*plain, plain_sgd);
    const StateDict fused_buffers = MomentumOf(*fused, fused_sgd);
    EXPECT_EQ(fused_buffers.size(), momentum > 0 ? 62u : 0u);
    for (const auto& [name, tensor] : fused_buffers) {
      EXPECT_TRUE(tensor.allclose(buffers.at(name), 1e-4, 1e-4)) << name;
    }
  }
}

// Three steps of training from the same weights on the same batch, as Python
// takes them. With a decay of 1, a parameter that it does not reach is off by
// more than 1e-3.
class ThreeStepsTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ThreeStepsTest, ParametersAndStatisticsArePythons) {
  const auto golden =
      testing::GoldenJson(std::string("resnet18/") + GetParam() + ".json");
  ResNet18 net = testing::GoldenResNet18();
  ToChannelsLast(*net);
  net->train();
  torch::optim::SGD sgd = TwoGroupSgd(*net, Recipe(golden["weight_decay"]));
  const torch::Tensor batch =
      testing::GoldenBatch().contiguous(at::MemoryFormat::ChannelsLast);
  const torch::Tensor labels =
      torch::tensor(golden["labels"].get<std::vector<int64_t>>());
  for (const double expected : golden["losses"]) {
    sgd.zero_grad();
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(net->forward(batch), labels);
    loss.backward();
    sgd.step();
    EXPECT_NEAR(loss.item<double>(), expected, 1e-4);
  }

  const StateDict state = StateDictOf(*net);
  ASSERT_EQ(golden["state_dict"].size(), state.size());
  for (const auto& [name, entry] : golden["state_dict"].items()) {
    const torch::Tensor flat = state.at(name).flatten().to(torch::kFloat64);
    const auto stride = entry["sample_stride"].get<int64_t>();
    int64_t k = 0;
    for (const double expected : entry["values"]) {
      ASSERT_NEAR(flat[k++ * stride].item<double>(), expected, 1e-4)
          << name << " " << k;
    }
    const auto squares = entry["sum_of_squares"].get<double>();
    EXPECT_NEAR(flat.square().sum().item<double>(), squares,
                1e-4 * squares + 1e-6)
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ThreeStepsTest,
                         ::testing::Values("sgd", "sgd_decay"));

}  // namespace
}  // namespace finetune
