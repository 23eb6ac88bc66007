#include "server/data/transforms.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "server/data/augment.h"
#include "server/data/resize.h"

namespace finetune {
namespace {

constexpr int kResizeSize = 256;  // Shorter side, before the central crop.

void CopyMirrored(const uint8_t* from, uint8_t* to) {
  for (int y = 0; y < kInputSize; ++y) {
    for (const uint8_t* pixel = from + 3 * kInputSize; pixel != from;) {
      pixel -= 3;
      to = std::copy_n(pixel, 3, to);
    }
    from += 3 * kInputSize;
  }
}

}  // namespace

void TestTransform(const RgbImage& image, uint8_t* pixels) {
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
  const RgbImage cropped = Resize(
      image, {.width = image.width, .height = image.height}, width, height,
      {.left = offset(width),
       .top = offset(height),
       .width = kInputSize,
       .height = kInputSize});
  std::memcpy(pixels, cropped.pixels.get(), kInputBytes);
}

void TrainTransform(const RgbImage& image, Random random, uint8_t* pixels) {
  const CropBox box = RandomCropBox(image.width, image.height, random);
  const bool flip = RandomFlip(random);
  const RgbImage cropped = Resize(image, box, kInputSize, kInputSize,
                                  {.width = kInputSize, .height = kInputSize});
  if (flip) {
    CopyMirrored(cropped.pixels.get(), pixels);
  } else {
    std::memcpy(pixels, cropped.pixels.get(), kInputBytes);
  }
}

}  // namespace finetune
