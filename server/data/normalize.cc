#include "server/data/normalize.h"

namespace finetune {
namespace {

constexpr size_t kPixels = kInputBytes / 3;

// The normalised value of each level of each channel.
using NormalizeTable = std::array<std::array<float, 256>, 3>;

const NormalizeTable& Table() {
  static const NormalizeTable table = [] {
    NormalizeTable made;
    for (size_t c = 0; c < 3; ++c) {
      for (int level = 0; level < 256; ++level) {
        made[c][level] =
            (static_cast<float>(level) / 255.0f - kImageMean[c]) / kImageStd[c];
      }
    }
    return made;
  }();
  return table;
}

}  // namespace

void NormalizeChannelsLast(const uint8_t* pixels, float* out) {
  const NormalizeTable& table = Table();
  for (size_t i = 0; i < kInputBytes; i += 3) {
    out[i] = table[0][pixels[i]];
    out[i + 1] = table[1][pixels[i + 1]];
    out[i + 2] = table[2][pixels[i + 2]];
  }
}

void NormalizeChannelsFirst(const uint8_t* pixels, float* out) {
  const NormalizeTable& table = Table();
  for (size_t i = 0; i < kPixels; ++i) {
    out[i] = table[0][pixels[3 * i]];
    out[i + kPixels] = table[1][pixels[3 * i + 1]];
    out[i + 2 * kPixels] = table[2][pixels[3 * i + 2]];
  }
}

}  // namespace finetune
