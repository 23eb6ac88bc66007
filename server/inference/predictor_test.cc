#include "server/inference/predictor.h"

#include <filesystem>
#include <string>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"
#include "server/data/dataset.h"
#include "server/data/transforms.h"
#include "server/model/safetensors.h"
#include "server/model/testing/golden_resnet18.h"
#include "server/model/weights.h"
#include "server/testing/pictures.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using testing::Image;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

class PredictorTest : public ::testing::Test {
 protected:
  PredictorTest() {
    weights_ = dir_.Write(
        "weights.safetensors",
        SerializeSafetensors(StateDictOf(*testing::GoldenResNet18())));
  }

  const TempDir dir_;
  fs::path weights_;
};

// The plain way: eager, contiguous, one image.
std::vector<float> Expected(const std::string& bytes) {
  ResNet18 net = testing::GoldenResNet18();
  net->eval();
  const torch::NoGradGuard no_grad;
  std::vector<float> floats(kInputFloats);
  TestTransform(*DecodeRgb(bytes, {}), floats.data());
  const torch::Tensor input = torch::tensor(floats)
                                  .view({1, kInputSize, kInputSize, 3})
                                  .permute({0, 3, 1, 2})
                                  .contiguous();
  const torch::Tensor p = net->forward(input).softmax(1);
  return std::vector<float>(p.const_data_ptr<float>(),
                            p.const_data_ptr<float>() + p.numel());
}

TEST_F(PredictorTest, ProbabilitiesAreThoseOfThePlainForwardPass) {
  const auto classify = LoadPredictor(weights_, 5, {.threads = 2});
  ASSERT_THAT(classify, IsOk());
  const std::vector<std::string> files = {Image("landscape_420.jpg"), "noise",
                                          Image("rgba.png"), Image("cmyk.jpg")};
  const BatchResult result =
      (*classify)(std::vector<absl::string_view>(files.begin(), files.end()));
  ASSERT_EQ(result.images.size(), 4u);
  EXPECT_THAT(result.images[1], StatusIs(absl::StatusCode::kInvalidArgument));
  for (const size_t i : {0, 2, 3}) {
    ASSERT_THAT(result.images[i], IsOk());
    const std::vector<float> expected = Expected(files[i]);
    for (size_t c = 0; c < 5; ++c) {
      EXPECT_NEAR((*result.images[i])[c], expected[c], 1e-5);
    }
  }
}

TEST_F(PredictorTest, WeightsThatDoNotFitAreRefused) {
  EXPECT_THAT(LoadPredictor(weights_, 4, {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(LoadPredictor(dir_.path() / "none", 5, {}),
              StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace finetune
