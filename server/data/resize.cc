#include "server/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

// Both passes are compiled for AVX2 as well, and the loader picks.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define FINETUNE_VECTOR_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define FINETUNE_VECTOR_CLONES
#endif

namespace finetune {
namespace {

// Weights are integers of this many fractional bits; 8 are left for the pixel
// and 2 for the sum.
constexpr int kFractionBits = 32 - 8 - 2;

// How the outputs begin..begin+count-1 of one axis are made of its inputs.
struct Axis {
  int taps = 0;              // Of the widest output.
  std::vector<int> first;    // Per output: its first input.
  std::vector<int> size;     // Per output: its inputs.
  std::vector<int> weights;  // Per output: `taps` of them, zeros at the end.
};

// The triangle filter, widened by the scale where that shrinks.
Axis MakeAxis(int in, int out, int begin, int count) {
  const double scale = static_cast<double>(in) / out;
  const double support = std::max(scale, 1.0);
  Axis axis{.taps = 2 * static_cast<int>(std::ceil(support)) + 1};
  axis.weights.resize(static_cast<size_t>(count) * axis.taps);
  std::vector<double> exact(axis.taps);
  for (int i = 0; i < count; ++i) {
    const double center = (begin + i + 0.5) * scale;
    const int low = std::max(static_cast<int>(center - support + 0.5), 0);
    const int high = std::min(static_cast<int>(center + support + 0.5), in);
    double sum = 0;
    for (int x = low; x < high; ++x) {
      const double distance = std::abs((x - center + 0.5) / support);
      exact[x - low] = std::max(0.0, 1.0 - distance);
      sum += exact[x - low];
    }
    for (int k = 0; k < high - low; ++k) {
      axis.weights[i * axis.taps + k] =
          static_cast<int>(0.5 + exact[k] / sum * (1 << kFractionBits));
    }
    axis.first.push_back(low);
    axis.size.push_back(high - low);
  }
  return axis;
}

uint8_t Clip(int sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

constexpr int kHalf = 1 << (kFractionBits - 1);  // Rounds.

// One row: out[axis.first.size()][3] from in[...][3].
FINETUNE_VECTOR_CLONES
void ResizeRow(const uint8_t* in, const Axis& axis, uint8_t* out) {
  for (size_t i = 0; i < axis.first.size(); ++i) {
    const uint8_t* pixel = in + 3 * axis.first[i];
    const int* weight = &axis.weights[i * axis.taps];
    int red = kHalf, green = kHalf, blue = kHalf;
    for (int k = 0; k < axis.size[i]; ++k, pixel += 3) {
      red += pixel[0] * weight[k];
      green += pixel[1] * weight[k];
      blue += pixel[2] * weight[k];
    }
    *out++ = Clip(red);
    *out++ = Clip(green);
    *out++ = Clip(blue);
  }
}

// out[i] = the weighted sum of `size` rows at in[i], `bytes` apart and long.
FINETUNE_VECTOR_CLONES
void BlendRows(const uint8_t* in, size_t bytes, const int* weights, int size,
               int* sums, uint8_t* out) {
  std::fill_n(sums, bytes, kHalf);
  for (int k = 0; k < size; ++k, in += bytes) {
    for (size_t i = 0; i < bytes; ++i) sums[i] += in[i] * weights[k];
  }
  for (size_t i = 0; i < bytes; ++i) out[i] = Clip(sums[i]);
}

RgbImage MakeImage(int width, int height) {
  return {
      width, height,
      std::make_unique_for_overwrite<uint8_t[]>(size_t{3} * width * height)};
}

}  // namespace

RgbImage Resize(const RgbImage& image, const CropBox& from, int width,
                int height, const CropBox& to) {
  const Axis across = MakeAxis(from.width, width, to.left, to.width);
  const Axis down = MakeAxis(from.height, height, to.top, to.height);

  // Only the rows that the second pass will ask for.
  const int top = down.first.front();
  const int bottom = down.first.back() + down.size.back();
  const size_t row_bytes = size_t{3} * to.width;
  const auto narrowed =
      std::make_unique_for_overwrite<uint8_t[]>(row_bytes * (bottom - top));
  for (int y = top; y < bottom; ++y) {
    const size_t row =
        size_t{3} *
        (static_cast<size_t>(from.top + y) * image.width + from.left);
    uint8_t* const out = &narrowed[row_bytes * (y - top)];
    if (from.width == width) {  // Pillow skips the pass.
      std::memcpy(out, &image.pixels[row + size_t{3} * to.left], row_bytes);
    } else {
      ResizeRow(&image.pixels[row], across, out);
    }
  }

  RgbImage resized = MakeImage(to.width, to.height);
  std::vector<int> sums(row_bytes);
  for (int y = 0; y < to.height; ++y) {
    const uint8_t* const in = &narrowed[row_bytes * (down.first[y] - top)];
    BlendRows(in, row_bytes, &down.weights[y * down.taps], down.size[y],
              sums.data(), &resized.pixels[row_bytes * y]);
  }
  return resized;
}

}  // namespace finetune
