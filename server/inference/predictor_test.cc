#include "server/inference/predictor.h"

#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/dataset.h"
#include "server/data/normalize.h"
#include "server/inference/fold_resnet18.h"
#include "server/inference/preprocess.h"
#include "server/model/safetensors.h"
#include "server/model/testing/golden_resnet18.h"
#include "server/model/weights.h"
#include "server/testing/pictures.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Image;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

constexpr int kMaxBatch = 18;  // Over what two threads take at once.
constexpr size_t kClasses = 5;

using Input = std::vector<uint8_t>;  // Pixels.

// Photos first, then noise: an image of each place in a batch.
std::vector<Input> Inputs(size_t count) {
  std::vector<Input> inputs;
  for (const char* photo : {"landscape_420.jpg", "rgba.png", "cmyk.jpg"}) {
    inputs.emplace_back(kInputBytes);
    EXPECT_THAT(MakePreprocess({})(Image(photo), absl::MakeSpan(inputs.back())),
                IsOk());
  }
  while (inputs.size() < count) {
    Input noise(kInputBytes);
    for (size_t i = 0; i < noise.size(); ++i) {
      noise[i] =
          static_cast<uint8_t>(256 * testing::GoldenUniform(inputs.size(), i));
    }
    inputs.push_back(std::move(noise));
  }
  inputs.resize(count);
  return inputs;
}

std::vector<const uint8_t*> Pointers(const std::vector<Input>& inputs) {
  std::vector<const uint8_t*> pointers;
  for (const Input& input : inputs) pointers.push_back(input.data());
  return pointers;
}

// The plain way: eager, contiguous, one image.
torch::Tensor ExpectedLogits(ResNet18& net, const Input& input) {
  net->eval();
  const torch::NoGradGuard no_grad;
  std::vector<float> normalized(kInputBytes);
  NormalizeChannelsLast(input.data(), normalized.data());
  return net->forward(torch::tensor(normalized)
                          .view({1, kInputSize, kInputSize, 3})
                          .permute({0, 3, 1, 2})
                          .contiguous());
}

class PredictorTest : public ::testing::Test {
 protected:
  static absl::StatusOr<LoadedModel> Load(const PredictorOptions& options) {
    return LoadPredictor(Weights(), kClasses, options);
  }
  static const fs::path& Weights() {
    static const TempDir dir;
    static const fs::path weights = dir.Write(
        "weights.safetensors",
        SerializeSafetensors(StateDictOf(*testing::GoldenResNet18())));
    return weights;
  }
};

TEST_F(PredictorTest, LogitsAreTorchsAtEveryBatchSizeAndNumberOfThreads) {
  ResNet18 net = testing::GoldenResNet18();
  const std::vector<Input> inputs = Inputs(kMaxBatch);
  std::vector<torch::Tensor> expected;
  for (const Input& input : inputs) {
    expected.push_back(ExpectedLogits(net, input));
  }
  FusedResNet18 fused(Fold(*net));
  const std::vector<const uint8_t*> pointers = Pointers(inputs);
  float most = 0;
  for (const int threads : {1, 2}) {
    for (int n = 1; n <= kMaxBatch; ++n) {
      const std::vector<float> logits =
          fused.Forward(absl::MakeSpan(pointers).subspan(0, n), threads);
      ASSERT_EQ(logits.size(), n * kClasses);
      for (size_t i = 0; i < logits.size(); ++i) {
        most = std::max(
            most,
            std::abs(
                logits[i] -
                expected[i / kClasses].const_data_ptr<float>()[i % kClasses]));
      }
      ASSERT_LT(most, 1e-4) << n << " images on " << threads << " threads";
    }
  }
  RecordProperty("largest_difference", std::to_string(most));
}

TEST_F(PredictorTest, ProbabilitiesAreTorchsSoftmax) {
  const auto loaded = Load({.threads = 2, .max_batch = 4});
  ASSERT_THAT(loaded, IsOk());
  ResNet18 net = testing::GoldenResNet18();
  const std::vector<Input> inputs = Inputs(4);
  const auto results = loaded->forward(Pointers(inputs), 2);
  ASSERT_EQ(results.size(), 4u);
  for (size_t i = 0; i < results.size(); ++i) {
    const torch::Tensor p = ExpectedLogits(net, inputs[i]).softmax(1);
    ASSERT_EQ(results[i].size(), kClasses);
    for (size_t c = 0; c < kClasses; ++c) {
      EXPECT_NEAR(results[i][c], p.const_data_ptr<float>()[c], 1e-5);
    }
  }
}

TEST_F(PredictorTest, ImagesOfABatchDoNotTouchEachOther) {
  const auto loaded = Load({.max_batch = 4});
  ASSERT_THAT(loaded, IsOk());
  std::vector<Input> inputs = Inputs(4);
  const auto before = loaded->forward(Pointers(inputs), 1);
  inputs[2].assign(kInputBytes, 100);
  const auto after = loaded->forward(Pointers(inputs), 1);
  EXPECT_EQ(before[0], after[0]);
  EXPECT_EQ(before[1], after[1]);
  EXPECT_NE(before[2], after[2]);
  EXPECT_EQ(before[3], after[3]);
}

TEST_F(PredictorTest, CallsAtOnceGiveTheBitsOfCallsInTurn) {
  const auto loaded = Load({.threads = 2, .max_batch = 4});
  ASSERT_THAT(loaded, IsOk());
  const std::vector<Input> inputs = Inputs(4);
  const std::vector<const uint8_t*> pointers = Pointers(inputs);
  // Thread t: t + 1 images on one thread or two.
  const auto forward = [&](size_t t) {
    return loaded->forward(absl::MakeSpan(pointers).subspan(0, t + 1),
                           1 + static_cast<int>(t % 2));
  };
  std::vector<std::vector<Probabilities>> expected;
  for (size_t t = 0; t < 4; ++t) expected.push_back(forward(t));
  std::vector<int> wrong(4);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 5; ++i) wrong[t] += forward(t) != expected[t];
      });
    }
  }
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST_F(PredictorTest, WeightsThatDoNotFitAreRefused) {
  EXPECT_THAT(LoadPredictor(Weights(), 4, {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(LoadPredictor(Weights().parent_path() / "none", 5, {}),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(PredictorTest, WeightsThatAreNotFiniteAreRefused) {
  StateDict state = StateDictOf(*testing::GoldenResNet18());
  state["fc.bias"][0] = std::numeric_limits<float>::infinity();
  const TempDir dir;
  const auto weights =
      dir.Write("weights.safetensors", SerializeSafetensors(state));
  EXPECT_THAT(LoadPredictor(weights, kClasses, {}),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(PredictorTest, PrecisionThatACpuDoesNotHaveIsRefused) {
  for (const char* precision : {"fp16", "bf16", "int8"}) {
    const auto loaded = Load({.precision = precision});
    EXPECT_THAT(loaded, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(std::string(loaded.status().message()), HasSubstr(precision));
  }
}

TEST_F(PredictorTest, BytesAreCountedAtLeastForTheWeights) {
  const auto loaded = Load({.max_batch = 1});
  ASSERT_THAT(loaded, IsOk());
  EXPECT_GT(loaded->bytes, uint64_t{45'000'000});
}

TEST(PreprocessTest, WhatIsNoImageIsRefused) {
  Input input(kInputBytes);
  EXPECT_THAT(MakePreprocess({})("noise", absl::MakeSpan(input)),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace finetune
