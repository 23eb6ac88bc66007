#include "server/training/device_batches.h"

#include <numeric>
#include <vector>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/normalize.h"

namespace finetune {
namespace {

using testing::StatusIs;

// Image i is all of level 10 * i, and its label i.
absl::Status LoadLevel(size_t i, uint8_t* image, int64_t* label) {
  std::fill_n(image, kInputBytes, static_cast<uint8_t>(10 * i));
  *label = static_cast<int64_t>(i);
  return absl::OkStatus();
}

class DeviceBatchesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (device_.is_cuda() && !torch::cuda::is_available()) {
      GTEST_SKIP() << "no CUDA GPU here";
    }
  }

  Loader::Options Options() const {
    return {.batch_size = 4,
            .sample_bytes = kInputBytes,
            .allocate = DeviceBatches::AllocatorFor(device_)};
  }

  const torch::Device device_{GetParam()};
};

TEST_P(DeviceBatchesTest, EveryImageComesNormalizedWithItsLabel) {
  std::vector<size_t> order(22);
  std::iota(order.begin(), order.end(), size_t{0});
  Loader loader(Options(), order, LoadLevel);
  DeviceBatches batches(loader, device_);
  std::vector<int64_t> sizes;
  float next = 0;
  while (true) {
    const auto batch = *batches.Next();
    if (!batch.has_value()) break;
    EXPECT_EQ(batch->images.device().type(), device_.type());
    EXPECT_TRUE(batch->images.is_contiguous(at::MemoryFormat::ChannelsLast));
    sizes.push_back(batch->images.size(0));
    const torch::Tensor images = batch->images.cpu();
    const torch::Tensor labels = batch->labels.cpu();
    for (int64_t i = 0; i < images.size(0); ++i, ++next) {
      EXPECT_EQ(labels[i].item<float>(), next);
      for (int64_t c = 0; c < 3; ++c) {
        const float expected = (10 * next / 255 - kImageMean[c]) / kImageStd[c];
        EXPECT_NEAR(images[i][c].min().item<float>(), expected, 1e-5);
        EXPECT_NEAR(images[i][c].max().item<float>(), expected, 1e-5);
      }
    }
  }
  EXPECT_THAT(sizes, ::testing::ElementsAre(4, 4, 4, 4, 4, 2));
}

TEST_P(DeviceBatchesTest, BothWaysToNormalizeGiveTheSameValues) {
  std::vector<uint8_t> pixels(kInputBytes);
  for (size_t i = 0; i < kInputBytes; ++i) pixels[i] = i * 7 % 256;
  const std::vector<int64_t> shape = {1, kInputSize, kInputSize, 3};
  std::vector<float> expected(kInputBytes);
  NormalizeChannelsLast(pixels.data(), expected.data());
  const torch::Tensor normalized = PixelNormalizer(device_)(
      torch::from_blob(pixels.data(), shape, torch::kByte).to(device_));
  EXPECT_TRUE(normalized.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(
      normalized.permute({0, 2, 3, 1})
          .cpu()
          .allclose(torch::from_blob(expected.data(), shape), 1e-5, 1e-6));
}

TEST_P(DeviceBatchesTest, ErrorOfTheLoaderIsHandedOn) {
  Loader loader(Options(), {0, 1}, [](size_t, uint8_t*, int64_t*) {
    return absl::NotFoundError("gone");
  });
  DeviceBatches batches(loader, device_);
  EXPECT_THAT(batches.Next(), StatusIs(absl::StatusCode::kNotFound));
}

INSTANTIATE_TEST_SUITE_P(All, DeviceBatchesTest,
                         ::testing::Values("cpu", "cuda:0"));

}  // namespace
}  // namespace finetune
