#include "server/data/transforms.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/dataset.h"

// What Pillow and torchvision made of the same files: scripts/make_golden.py.

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::StatusIs;

const fs::path kTestData = FINETUNE_TESTDATA;

RgbImage Read(const fs::path& path) {
  auto image = ReadImage(path, {});
  EXPECT_TRUE(image.ok()) << path << ": " << image.status();
  return *std::move(image);
}

// The largest difference of any channel of any pixel, in levels.
int MaxDifference(const RgbImage& a, const RgbImage& b) {
  if (a.width != b.width || a.height != b.height) return 256;
  int most = 0;
  for (int i = 0; i < 3 * a.width * a.height; ++i) {
    most = std::max(most, std::abs(a.pixels[i] - b.pixels[i]));
  }
  return most;
}

class GoldenImageTest : public ::testing::TestWithParam<std::string> {
 protected:
  RgbImage Golden(const std::string& what) {
    return Read(kTestData / "golden" / (GetParam() + what));
  }
  const RgbImage image_ = Read(kTestData / "images" / GetParam());
};

TEST_P(GoldenImageTest, DecodedPixelsArePillows) {
  EXPECT_EQ(MaxDifference(image_, Golden(".decoded.png")), 0);
}

TEST_P(GoldenImageTest, TestTransformIsTorchvisions) {
  RgbImage transformed = MakeImage(kInputSize, kInputSize);
  TestTransform(image_, transformed.pixels.get());
  EXPECT_EQ(MaxDifference(transformed, Golden(".test.png")), 0);
}

std::vector<std::string> GoldenImages() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kTestData / "images")) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, GoldenImageTest,
                         ::testing::ValuesIn(GoldenImages()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(DecodeTest, EveryBadFileIsRefusedWithAReason) {
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"empty.jpg", "empty"},
      {"not_an_image.jpg", "not a JPEG, PNG, WebP or BMP"},
      {"truncated.jpg", "Premature end"},
      {"truncated.png", "truncated"}};
  for (const auto& [name, reason] : expected) {
    const auto image = ReadImage(kTestData / "bad" / name, {});
    EXPECT_THAT(image, StatusIs(absl::StatusCode::kInvalidArgument)) << name;
    EXPECT_THAT(std::string(image.status().message()), HasSubstr(reason));
  }
}

TEST(DecodeTest, ImageOverThePixelLimitIsRefusedByItsHeader) {
  for (const std::string& name : GoldenImages()) {
    const auto image =
        ReadImage(kTestData / "images" / name, {.max_pixels = 9});
    EXPECT_THAT(image, StatusIs(absl::StatusCode::kInvalidArgument)) << name;
    EXPECT_THAT(std::string(image.status().message()),
                HasSubstr("more than the limit of 9"));
  }
}

TEST(DecodeTest, EveryPrefixOfAnImageIsReadOrRefused) {
  for (const char* name : {"rgb.png", "lossy.webp", "rgb24.bmp", "tiny.jpg"}) {
    const std::string bytes = *ReadFile(kTestData / "images" / name, 1 << 20);
    const size_t step = std::max<size_t>(1, bytes.size() / 500);
    for (size_t n = 0; n < bytes.size(); n += step) {
      DecodeRgb(absl::string_view(bytes).substr(0, n), {}).IgnoreError();
    }
  }
}

TEST(NormalizeTest, ValuesAreTorchvisions) {
  const std::vector<uint8_t> white(kInputBytes, 255);
  std::vector<float> out(kInputBytes);
  NormalizeChannelsLast(white.data(), out.data());
  EXPECT_FLOAT_EQ(out[0], (1 - 0.485f) / 0.229f);
  EXPECT_FLOAT_EQ(out[1], (1 - 0.456f) / 0.224f);
  EXPECT_FLOAT_EQ(out[2], (1 - 0.406f) / 0.225f);
}

TEST(NormalizeTest, BothOrdersHoldTheSameValues) {
  std::vector<uint8_t> pixels(kInputBytes);
  for (size_t i = 0; i < kInputBytes; ++i) pixels[i] = i * 7 % 256;
  std::vector<float> last(kInputBytes), first(kInputBytes);
  NormalizeChannelsLast(pixels.data(), last.data());
  NormalizeChannelsFirst(pixels.data(), first.data());
  for (size_t i = 0; i < kInputBytes; ++i) {
    ASSERT_EQ(first[i % 3 * (kInputBytes / 3) + i / 3], last[i]) << i;
  }
}

TEST(TrainTransformTest, DependsOnItsRandomNumbersAlone) {
  const RgbImage image = Read(kTestData / "images/landscape_420.jpg");
  std::vector<uint8_t> a(kInputBytes), b(kInputBytes), c(kInputBytes);
  TrainTransform(image, Random(1, 1, 1), a.data());
  TrainTransform(image, Random(1, 1, 1), b.data());
  TrainTransform(image, Random(1, 1, 2), c.data());
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

// A picture that is dark on its left: flipped, it is dark on its right.
TEST(TrainTransformTest, HalfOfTheImagesAreMirrored) {
  RgbImage image{300, 300, std::make_unique<uint8_t[]>(300 * 300 * 3)};
  for (int i = 0; i < 300 * 300 * 3; ++i) {
    image.pixels[i] = static_cast<uint8_t>(i / 3 % 300 * 255 / 300);
  }
  int mirrored = 0;
  std::vector<uint8_t> out(kInputBytes);
  for (uint64_t sample = 0; sample < 400; ++sample) {
    TrainTransform(image, Random(3, 1, sample), out.data());
    mirrored += out[0] > out[3 * (kInputSize - 1)];
  }
  EXPECT_NEAR(mirrored, 200, 50);
}

}  // namespace
}  // namespace finetune
