// RGB images to the network's input, as torchvision.transforms does it, up to
// ToTensor and Normalize, for which see normalize.h.
//
// Resizing is Pillow's own, bit for bit. Thread-safe.

#ifndef SERVER_DATA_TRANSFORMS_H_
#define SERVER_DATA_TRANSFORMS_H_

#include <cstdint>

#include "server/data/decode.h"
#include "server/data/normalize.h"
#include "server/data/random.h"

namespace finetune {

// Resize(256) of the shorter side, CenterCrop(224), to pixels[kInputBytes].
void TestTransform(const RgbImage& image, uint8_t* pixels);

// RandomResizedCrop(224) and RandomHorizontalFlip, to pixels[kInputBytes].
void TrainTransform(const RgbImage& image, Random random, uint8_t* pixels);

}  // namespace finetune

#endif  // SERVER_DATA_TRANSFORMS_H_
