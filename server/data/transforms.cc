#include "server/data/transforms.h"

#include <array>
#include <cmath>
#include <cstdint>

#include "server/data/augment.h"
#include "server/data/resize.h"

namespace finetune {
namespace {

constexpr int kResizeSize = 256;  // Shorter side, before the central crop.
constexpr std::array<float, 3> kMean = {0.485f, 0.456f, 0.406f};
constexpr std::array<float, 3> kStd = {0.229f, 0.224f, 0.225f};

// For each channel and level: (level / 255 - mean) / std, in float as ToTensor
// and Normalize compute it.
using NormalizeTable = std::array<std::array<float, 256>, 3>;

NormalizeTable MakeNormalizeTable() {
  NormalizeTable table;
  for (size_t c = 0; c < 3; ++c) {
    for (int level = 0; level < 256; ++level) {
      table[c][level] =
          (static_cast<float>(level) / 255.0f - kMean[c]) / kStd[c];
    }
  }
  return table;
}

void Normalize(const RgbImage& image, bool flip, float* out) {
  static const NormalizeTable kTable = MakeNormalizeTable();
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* row = &image.pixels[size_t{3} * image.width * y];
    for (int x = 0; x < image.width; ++x) {
      const uint8_t* pixel = row + 3 * (flip ? image.width - 1 - x : x);
      *out++ = kTable[0][pixel[0]];
      *out++ = kTable[1][pixel[1]];
      *out++ = kTable[2][pixel[2]];
    }
  }
}

}  // namespace

RgbImage ResizeAndCenterCrop(const RgbImage& image) {
  const bool portrait = image.height > image.width;
  const int64_t shorter = portrait ? image.width : image.height;
  const int64_t longer = portrait ? image.height : image.width;
  const int scaled = static_cast<int>(kResizeSize * longer / shorter);
  const int width = portrait ? kResizeSize : scaled;
  const int height = portrait ? scaled : kResizeSize;
  // Half to even, as Python rounds.
  const auto offset = [](int side) {
    return static_cast<int>(std::nearbyint((side - kInputSize) / 2.0));
  };
  return Resize(image, {.width = image.width, .height = image.height}, width,
                height,
                {.left = offset(width),
                 .top = offset(height),
                 .width = kInputSize,
                 .height = kInputSize});
}

void TestTransform(const RgbImage& image, float* out) {
  Normalize(ResizeAndCenterCrop(image), /*flip=*/false, out);
}

void TrainTransform(const RgbImage& image, Random random, float* out) {
  const CropBox box = RandomCropBox(image.width, image.height, random);
  const bool flip = RandomFlip(random);
  Normalize(Resize(image, box, kInputSize, kInputSize,
                   {.width = kInputSize, .height = kInputSize}),
            flip, out);
}

}  // namespace finetune
