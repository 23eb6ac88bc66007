// The network's input: 224 x 224 RGB pixels of 8 bits, and what they become as
// ToTensor and Normalize of torchvision compute it with ImageNet's statistics:
// (level / 255 - mean) / std, in float32. Thread-safe.

#ifndef SERVER_DATA_NORMALIZE_H_
#define SERVER_DATA_NORMALIZE_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace finetune {

inline constexpr int kInputSize = 224;  // Pixels a side.

// Bytes of one image's pixels, and floats of its normalised values:
// [kInputSize][kInputSize][3], which is one item of a channels-last batch.
inline constexpr size_t kInputBytes = size_t{3} * kInputSize * kInputSize;

// By channel: red, green, blue.
inline constexpr std::array<float, 3> kImageMean = {0.485f, 0.456f, 0.406f};
inline constexpr std::array<float, 3> kImageStd = {0.229f, 0.224f, 0.225f};

// pixels[kInputBytes] to out[kInputBytes], in the same order.
void NormalizeChannelsLast(const uint8_t* pixels, float* out);

// The same values, channel after channel: [3][kInputSize][kInputSize].
void NormalizeChannelsFirst(const uint8_t* pixels, float* out);

}  // namespace finetune

#endif  // SERVER_DATA_NORMALIZE_H_
