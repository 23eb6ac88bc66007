// The forward pass on a GPU against that on the CPU. Skipped where there is no
// GPU.

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/transforms.h"
#include "server/inference/predictor.h"
#include "server/model/safetensors.h"
#include "server/model/testing/golden_resnet18.h"
#include "server/model/weights.h"
#include "torch/torch.h"

namespace finetune {
namespace {

using testing::TempDir;
using Results = std::vector<Probabilities>;

constexpr int kMaxBatch = 6;  // Is padded to 8.
constexpr int kClasses = 5;
constexpr size_t kInputs = 20;  // More than a batch of 8 twice.

float LargestDifference(const Results& a, const Results& b) {
  EXPECT_EQ(a.size(), b.size());
  float most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    for (size_t c = 0; c < kClasses; ++c) {
      most = std::max(most, std::abs(a[i].at(c) - b[i].at(c)));
    }
  }
  return most;
}

// Noise of another brightness each.
std::vector<float> Noise() {
  std::vector<float> noise;
  noise.reserve(kInputs * kInputFloats);
  for (size_t n = 0; n < kInputs; ++n) {
    const double mean = 4 * testing::GoldenUniform(kInputs, n) - 2;
    for (size_t i = 0; i < kInputFloats; ++i) {
      noise.push_back(
          static_cast<float>(mean + 4 * testing::GoldenUniform(n, i) - 2));
    }
  }
  return noise;
}

// The golden network, whose answers hardly depend on the input, made to tell
// inputs apart.
ResNet18 SharpResNet18() {
  ResNet18 net = testing::GoldenResNet18();
  const torch::NoGradGuard no_grad;
  net->fc->weight.mul_(8);
  return net;
}

std::vector<ptrdiff_t> BestClasses(const Results& results) {
  std::vector<ptrdiff_t> best;
  for (const Probabilities& p : results) {
    best.push_back(std::max_element(p.begin(), p.end()) - p.begin());
  }
  return best;
}

class CudaForwardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA GPU here";
  }

  // Answers to inputs of noise, the first `n` of them.
  class Model {
   public:
    explicit Model(const std::string& device,
                   const std::string& precision = "fp32") {
      const TempDir dir;
      const auto weights =
          dir.Write("weights.safetensors",
                    SerializeSafetensors(StateDictOf(*SharpResNet18())));
      forward_ = LoadPredictor(weights, kClasses,
                               {.device = device,
                                .max_batch = kMaxBatch,
                                .precision = precision})
                     .value()
                     .forward;
    }
    Results Classify(size_t n) const {
      return forward_(absl::MakeSpan(Inputs()).subspan(0, n), 1);
    }

   private:
    ForwardFn forward_;
  };

  static const std::vector<const float*>& Inputs() {
    static const std::vector<float> noise = Noise();
    static const std::vector<const float*> inputs = [] {
      std::vector<const float*> pointers;
      for (size_t n = 0; n < kInputs; ++n) {
        pointers.push_back(&noise[n * kInputFloats]);
      }
      return pointers;
    }();
    return inputs;
  }
};

TEST_F(CudaForwardTest, ProbabilitiesAreTheCpusAtEveryBatchSize) {
  const Model cpu("cpu"), gpu("cuda:0");
  for (const size_t n : {1, 3, kMaxBatch}) {
    EXPECT_LT(LargestDifference(gpu.Classify(n), cpu.Classify(n)), 1e-3) << n;
  }
}

TEST_F(CudaForwardTest, HalfPrecisionNamesTheSameClasses) {
  const Results expected = Model("cpu").Classify(kMaxBatch);
  for (const char* precision : {"fp16", "bf16"}) {
    const Results results = Model("cuda:0", precision).Classify(kMaxBatch);
    EXPECT_LT(LargestDifference(results, expected), 2e-2) << precision;
    EXPECT_EQ(BestClasses(results), BestClasses(expected)) << precision;
  }
}

TEST_F(CudaForwardTest, ProbabilitiesDoNotDependOnTheBatchSize) {
  const Model gpu("cuda:0");
  const Results all = gpu.Classify(kInputs);  // In parts of 8, 8 and 4.
  for (size_t n = 1; n < kInputs; ++n) {
    const Results first(all.begin(), all.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_LT(LargestDifference(gpu.Classify(n), first), 1e-4) << n;
  }
}

TEST_F(CudaForwardTest, CallsAtOnceGiveTheProbabilitiesOfCallsInTurn) {
  const Model gpu("cuda:0");
  std::vector<Results> expected;
  for (size_t t = 0; t < 4; ++t) expected.push_back(gpu.Classify(t + 1));
  std::vector<float> most(4);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 50; ++i) {
          most[t] = std::max(
              most[t], LargestDifference(gpu.Classify(t + 1), expected[t]));
        }
      });
    }
  }
  EXPECT_THAT(most, ::testing::Each(::testing::Lt(1e-4f)));
}

}  // namespace
}  // namespace finetune
