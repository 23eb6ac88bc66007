#include "server/data/augment.h"

#include <cmath>

namespace finetune {
namespace {

constexpr double kMinArea = 0.08, kMaxArea = 1.0;
constexpr double kMinRatio = 3.0 / 4.0, kMaxRatio = 4.0 / 3.0;
constexpr int kTries = 10;

// Half to even, as Python rounds.
int Round(double x) { return static_cast<int>(std::nearbyint(x)); }

CropBox CentralBox(int width, int height) {
  const double ratio = static_cast<double>(width) / height;
  CropBox box{.width = width, .height = height};
  if (ratio < kMinRatio) box.height = Round(width / kMinRatio);
  if (ratio > kMaxRatio) box.width = Round(height * kMaxRatio);
  box.left = (width - box.width) / 2;
  box.top = (height - box.height) / 2;
  return box;
}

}  // namespace

CropBox RandomCropBox(int width, int height, Random& random) {
  const double image_area = static_cast<double>(width) * height;
  for (int i = 0; i < kTries; ++i) {
    const double area = image_area * random.Uniform(kMinArea, kMaxArea);
    const double ratio =
        std::exp(random.Uniform(std::log(kMinRatio), std::log(kMaxRatio)));
    const int w = Round(std::sqrt(area * ratio));
    const int h = Round(std::sqrt(area / ratio));
    if (w <= 0 || w > width || h <= 0 || h > height) continue;
    const auto top = static_cast<int>(random.Below(height - h + 1));
    const auto left = static_cast<int>(random.Below(width - w + 1));
    return {.left = left, .top = top, .width = w, .height = h};
  }
  return CentralBox(width, height);
}

bool RandomFlip(Random& random) { return random.Below(2) == 0; }

}  // namespace finetune
