// RGB images to the network's input, as torchvision.transforms does it.
//
// Resizing is Pillow's own, bit for bit; pixels are
// divided by 255 and normalised with ImageNet's mean and standard deviation.
// Thread-safe.

#ifndef SERVER_DATA_TRANSFORMS_H_
#define SERVER_DATA_TRANSFORMS_H_

#include <cstddef>

#include "server/data/decode.h"
#include "server/data/random.h"

namespace finetune {

inline constexpr int kInputSize = 224;  // Pixels a side.

// Floats of one image: [kInputSize][kInputSize][3], which is one item of a
// channels-last batch.
inline constexpr size_t kInputFloats = size_t{3} * kInputSize * kInputSize;

// Resize(256) of the shorter side, CenterCrop(224): still 8 bits a channel.
RgbImage ResizeAndCenterCrop(const RgbImage& image);

// ResizeAndCenterCrop, then normalised, to out[kInputFloats].
void TestTransform(const RgbImage& image, float* out);

// RandomResizedCrop(224) and RandomHorizontalFlip, then normalised, to
// out[kInputFloats].
void TrainTransform(const RgbImage& image, Random random, float* out);

}  // namespace finetune

#endif  // SERVER_DATA_TRANSFORMS_H_
