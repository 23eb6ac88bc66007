#include "server/data/augment.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "server/data/random.h"

namespace finetune {
namespace {

constexpr int kDraws = 20'000;

std::vector<CropBox> Draw(int width, int height) {
  std::vector<CropBox> boxes;
  for (uint64_t sample = 0; sample < kDraws; ++sample) {
    Random random(/*seed=*/7, /*epoch=*/1, sample);
    boxes.push_back(RandomCropBox(width, height, random));
  }
  return boxes;
}

TEST(RandomCropBoxTest, EveryBoxIsWithinTheImageAndTheDocumentedRange) {
  for (const CropBox& box : Draw(500, 375)) {
    ASSERT_GE(box.left, 0);
    ASSERT_GE(box.top, 0);
    ASSERT_LE(box.left + box.width, 500);
    ASSERT_LE(box.top + box.height, 375);
    const double area = box.width * box.height / (500.0 * 375.0);
    const double ratio = static_cast<double>(box.width) / box.height;
    ASSERT_GT(area, 0.08 * 0.98);  // Sides are rounded to whole pixels.
    ASSERT_LE(area, 1.0);
    ASSERT_GT(ratio, 0.75 * 0.98);
    ASSERT_LT(ratio, 4.0 / 3.0 * 1.02);
  }
}

// In a square image that is large enough, nearly all areas up to 3/4 fit with
// any ratio, so that below that the area is uniform and log-ratio symmetric.
TEST(RandomCropBoxTest, AreaIsUniformAndRatioLogUniform) {
  std::vector<int> areas(6);   // Of 0.08..0.68, a tenth each.
  std::vector<int> ratios(4);  // Of -log(4/3)..log(4/3), a quarter each.
  for (const CropBox& box : Draw(1000, 1000)) {
    const double area = box.width * box.height / 1e6;
    if (area >= 0.68) continue;
    ++areas[static_cast<size_t>((area - 0.08) * 10 + 1e-9)];
    const double log_ratio =
        std::log(static_cast<double>(box.width) / box.height);
    const double share = (log_ratio / std::log(4.0 / 3.0) + 1) / 2;
    ++ratios[static_cast<size_t>(std::clamp(share * 4, 0.0, 3.0))];
  }
  const double expected_area =
      (areas[0] + areas[1] + areas[2] + areas[3] + areas[4] + areas[5]) / 6.0;
  for (const int count : areas) EXPECT_NEAR(count / expected_area, 1, 0.08);
  const double expected_ratio =
      (ratios[0] + ratios[1] + ratios[2] + ratios[3]) / 4.0;
  for (const int count : ratios) EXPECT_NEAR(count / expected_ratio, 1, 0.08);
}

TEST(RandomCropBoxTest, PositionIsUniform) {
  double left = 0, top = 0;
  int movable = 0;
  for (const CropBox& box : Draw(640, 480)) {
    if (box.width == 640 || box.height == 480) continue;
    left += static_cast<double>(box.left) / (640 - box.width);
    top += static_cast<double>(box.top) / (480 - box.height);
    ++movable;
  }
  EXPECT_NEAR(left / movable, 0.5, 0.01);
  EXPECT_NEAR(top / movable, 0.5, 0.01);
}

// No box of 8 % of the area and a ratio of 3/4 or more fits such a strip.
TEST(RandomCropBoxTest, StripFallsBackToTheCentralBoxOfTheNearestRatio) {
  Random random(1, 1, 1);
  const CropBox tall = RandomCropBox(30, 3000, random);
  EXPECT_EQ(tall.width, 30);
  EXPECT_EQ(tall.height, 40);
  EXPECT_EQ(tall.left, 0);
  EXPECT_EQ(tall.top, (3000 - 40) / 2);

  const CropBox wide = RandomCropBox(3000, 30, random);
  EXPECT_EQ(wide.width, 40);
  EXPECT_EQ(wide.height, 30);
  EXPECT_EQ(wide.left, (3000 - 40) / 2);
}

TEST(RandomFlipTest, HalfOfTheImagesAreFlipped) {
  int flipped = 0;
  for (uint64_t sample = 0; sample < kDraws; ++sample) {
    Random random(7, 1, sample);
    flipped += RandomFlip(random);
  }
  EXPECT_NEAR(flipped / static_cast<double>(kDraws), 0.5, 0.015);
}

TEST(RandomTest, SequencesDependOnSeedEpochAndSample) {
  const auto first = [](uint64_t seed, uint64_t epoch, uint64_t sample) {
    return Random(seed, epoch, sample).Next();
  };
  EXPECT_EQ(first(1, 2, 3), first(1, 2, 3));
  EXPECT_NE(first(1, 2, 3), first(2, 2, 3));
  EXPECT_NE(first(1, 2, 3), first(1, 3, 3));
  EXPECT_NE(first(1, 2, 3), first(1, 2, 4));
  EXPECT_NE(first(1, 2, 3), first(1, 3, 2));
}

TEST(RandomOrderTest, IsAPermutationThatChangesWithTheEpoch) {
  const auto order = RandomOrder(1000, Random(1, 1, 0));
  std::vector<bool> seen(1000);
  for (const size_t i : order) seen[i] = true;
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 1000);
  EXPECT_NE(order, RandomOrder(1000, Random(1, 2, 0)));
}

}  // namespace
}  // namespace finetune
