// The forward pass on a GPU against that on the CPU. Skipped where there is no
// GPU.

#include <algorithm>
#include <cmath>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/normalize.h"
#include "server/inference/predictor.h"
#include "server/model/device.h"
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
std::vector<uint8_t> Noise() {
  std::vector<uint8_t> noise;
  noise.reserve(kInputs * kInputBytes);
  for (size_t n = 0; n < kInputs; ++n) {
    const double darkest = 192 * testing::GoldenUniform(kInputs, n);
    for (size_t i = 0; i < kInputBytes; ++i) {
      noise.push_back(
          static_cast<uint8_t>(darkest + 64 * testing::GoldenUniform(n, i)));
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
                   const std::string& precision = "fp32")
        : Model({.device = device,
                 .max_batch = kMaxBatch,
                 .precision = precision}) {}
    explicit Model(const PredictorOptions& options) {
      static const std::string bytes =
          SerializeSafetensors(StateDictOf(*SharpResNet18()));
      const TempDir dir;
      loaded_ = LoadPredictor(dir.Write("weights.safetensors", bytes), kClasses,
                              options)
                    .value();
    }
    Results Classify(size_t n) const {
      return loaded_.forward(absl::MakeSpan(Inputs()).subspan(0, n), 1);
    }
    uint64_t bytes() const { return loaded_.bytes; }

   private:
    LoadedModel loaded_;
  };

  // In pieces, since free memory lies scattered.
  static std::vector<torch::Tensor> FillAllBut(int64_t left) {
    std::vector<torch::Tensor> pieces;
    for (int64_t piece = int64_t{4} << 30; piece >= 2 << 20;) {
      try {
        if (FreeBytes() - piece >= left) {
          pieces.push_back(torch::empty(
              {piece}, torch::dtype(torch::kByte).device(torch::kCUDA)));
          continue;
        }
      } catch (const c10::OutOfMemoryError&) {
      }
      piece /= 2;
    }
    return pieces;
  }

  static int64_t FreeBytes() {
    return static_cast<int64_t>(MemoryOfGpu("cuda:0")->free_bytes);
  }

  static const std::vector<const uint8_t*>& Inputs() {
    static const std::vector<uint8_t> noise = Noise();
    static const std::vector<const uint8_t*> inputs = [] {
      std::vector<const uint8_t*> pointers;
      for (size_t n = 0; n < kInputs; ++n) {
        pointers.push_back(&noise[n * kInputBytes]);
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

TEST_F(CudaForwardTest, LessPreciseNamesTheSameClasses) {
  const Results expected = Model("cpu").Classify(kMaxBatch);
  for (const char* precision : {"tf32", "fp16", "bf16"}) {
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

// PyTorch hands the 32 streams of its pool out in turn, so that the 33rd model
// would be recorded on a stream that another one works on.
TEST_F(CudaForwardTest, FortyLoadsDoNotDisturbAModelAtWork) {
  const Model busy("cuda:0");
  const Results expected = busy.Classify(kMaxBatch);
  float most = 0;
  int calls = 0;
  {
    const std::jthread caller([&](const std::stop_token& stop) {
      for (; !stop.stop_requested(); ++calls) {
        most = std::max(most,
                        LargestDifference(busy.Classify(kMaxBatch), expected));
      }
    });
    for (int i = 0; i < 40; ++i) {
      EXPECT_LT(
          LargestDifference(Model("cuda:0").Classify(1),
                            Results(expected.begin(), expected.begin() + 1)),
          1e-4);
    }
  }
  EXPECT_LT(most, 1e-4);
  EXPECT_GT(calls, 40);
}

TEST_F(CudaForwardTest, MemoryThatIsCountedIsTakenAndGivenBack) {
  { const Model first("cuda:0"); }  // Loads CUDA's own code.
  const int64_t before = FreeBytes();
  {
    const Model model("cuda:0");
    const int64_t taken = before - FreeBytes();
    const auto counted = static_cast<int64_t>(model.bytes());
    EXPECT_GT(counted, 45'000'000);
    EXPECT_NEAR(taken, counted, 64 << 20);  // Graphs are the driver's.
  }
  EXPECT_NEAR(FreeBytes(), before, 64 << 20);
}

TEST_F(CudaForwardTest, WhatCannotBeRecordedRunsWithoutAGraphAndSaysSo) {
  const Results expected = Model("cuda:0").Classify(kMaxBatch);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::string> warnings;
    const Model model(PredictorOptions{
        .device = "cuda:0",
        .max_batch = kMaxBatch,
        .on_warning = [&](const auto& text) { warnings.push_back(text); },
        // No recording survives a wait for what it records.
        .while_recording = [] { torch::cuda::synchronize(); }});
    EXPECT_EQ(warnings.size(), 4u);  // Batches of 1, 2, 4 and 8.
    EXPECT_THAT(warnings,
                ::testing::Each(::testing::HasSubstr("no CUDA graph")));
    EXPECT_LT(LargestDifference(model.Classify(kMaxBatch), expected), 1e-4);
  }
  // The allocator records for nobody any more.
  EXPECT_LT(LargestDifference(Model("cuda:0").Classify(kMaxBatch), expected),
            1e-4);
  EXPECT_TRUE(DeviceWorks("cuda:0"));
}

TEST_F(CudaForwardTest, FullGpuRefusesAModelAndServesOn) {
  const Model served("cuda:0");
  const Results expected = served.Classify(kMaxBatch);
  const std::vector<torch::Tensor> hog = FillAllBut(32 << 20);
  const TempDir dir;
  const auto weights =
      dir.Write("weights.safetensors",
                SerializeSafetensors(StateDictOf(*SharpResNet18())));
  EXPECT_THAT(
      LoadPredictor(weights, kClasses, {.device = "cuda:0", .max_batch = 64}),
      testing::StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(DeviceWorks("cuda:0"));
  EXPECT_LT(LargestDifference(served.Classify(kMaxBatch), expected), 1e-4);
}

}  // namespace
}  // namespace finetune
