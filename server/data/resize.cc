#include "server/data/resize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
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

constexpr int kHalf = 1 << (kFractionBits - 1);  // Rounds.

uint8_t Clip(int sum) {
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

// The passes. One byte behind a row may be touched; its value does not matter.
struct Passes {
  // One row: out[axis.first.size()][3] from in[...][3].
  void (*resize_row)(const uint8_t* in, const Axis& axis, uint8_t* out);
  // out[bytes] = the weighted sum of `size` rows at `in`, which are as long.
  // REQUIRES: bytes is a multiple of 8.
  void (*blend_rows)(const uint8_t* in, size_t bytes, const int* weights,
                     int size, uint8_t* out);
};

void ResizeRow(const uint8_t* in, const Axis& axis, uint8_t* out) {
  for (size_t i = 0; i < axis.first.size(); ++i, out += 3) {
    const uint8_t* pixel = in + 3 * axis.first[i];
    const int* const weight = &axis.weights[i * axis.taps];
    int red = kHalf, green = kHalf, blue = kHalf;
    for (int k = 0; k < axis.size[i]; ++k, pixel += 3) {
      red += pixel[0] * weight[k];
      green += pixel[1] * weight[k];
      blue += pixel[2] * weight[k];
    }
    out[0] = Clip(red);
    out[1] = Clip(green);
    out[2] = Clip(blue);
  }
}

void BlendRows(const uint8_t* in, size_t bytes, const int* weights, int size,
               uint8_t* out) {
  for (size_t i = 0; i < bytes; ++i) {
    int sum = kHalf;
    for (int k = 0; k < size; ++k) sum += in[k * bytes + i] * weights[k];
    out[i] = Clip(sum);
  }
}

#if defined(__x86_64__)
// The same sums in vector registers: a pixel at once across,
// eight bytes at once down. Packing saturates as Clip does.

__attribute__((target("avx2"))) void ResizeRowAvx2(const uint8_t* in,
                                                   const Axis& axis,
                                                   uint8_t* out) {
  for (size_t i = 0; i < axis.first.size(); ++i, out += 3) {
    const uint8_t* pixel = in + 3 * axis.first[i];
    const int* const weight = &axis.weights[i * axis.taps];
    __m128i sum = _mm_set1_epi32(kHalf);
    for (int k = 0; k < axis.size[i]; ++k, pixel += 3) {
      const __m128i levels = _mm_cvtepu8_epi32(_mm_loadu_si32(pixel));
      sum = _mm_add_epi32(sum,
                          _mm_mullo_epi32(levels, _mm_set1_epi32(weight[k])));
    }
    sum = _mm_srai_epi32(sum, kFractionBits);
    sum = _mm_packus_epi32(sum, sum);
    _mm_storeu_si32(out, _mm_packus_epi16(sum, sum));
  }
}

__attribute__((target("avx2"))) void BlendRowsAvx2(const uint8_t* in,
                                                   size_t bytes,
                                                   const int* weights, int size,
                                                   uint8_t* out) {
  for (size_t i = 0; i < bytes; i += 8) {
    __m256i sum = _mm256_set1_epi32(kHalf);
    for (int k = 0; k < size; ++k) {
      const __m256i levels = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
          reinterpret_cast<const __m128i*>(in + k * bytes + i)));
      sum = _mm256_add_epi32(
          sum, _mm256_mullo_epi32(levels, _mm256_set1_epi32(weights[k])));
    }
    sum = _mm256_srai_epi32(sum, kFractionBits);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(sum),
                                           _mm256_extracti128_si256(sum, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + i),
                     _mm_packus_epi16(words, words));
  }
}
#endif

Passes FastestPasses() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return {ResizeRowAvx2, BlendRowsAvx2};
#endif
  return {ResizeRow, BlendRows};
}

}  // namespace

RgbImage Resize(const RgbImage& image, const CropBox& from, int width,
                int height, const CropBox& to) {
  static const Passes kPasses = FastestPasses();
  const Axis across = MakeAxis(from.width, width, to.left, to.width);
  const Axis down = MakeAxis(from.height, height, to.top, to.height);

  // Only the rows that the second pass will ask for.
  const int top = down.first.front();
  const int bottom = down.first.back() + down.size.back();
  const size_t row_bytes = size_t{3} * to.width;
  const auto narrowed =
      std::make_unique_for_overwrite<uint8_t[]>(row_bytes * (bottom - top) + 1);
  std::vector<uint8_t> row(size_t{3} * from.width + 1);
  for (int y = top; y < bottom; ++y) {
    const size_t begin =
        size_t{3} *
        (static_cast<size_t>(from.top + y) * image.width + from.left);
    std::memcpy(row.data(), &image.pixels[begin], row.size() - 1);
    uint8_t* const out = &narrowed[row_bytes * (y - top)];
    if (from.width == width) {  // Pillow skips the pass.
      std::memcpy(out, &row[size_t{3} * to.left], row_bytes);
    } else {
      kPasses.resize_row(row.data(), across, out);
    }
  }

  RgbImage resized = MakeImage(to.width, to.height);
  for (int y = 0; y < to.height; ++y) {
    kPasses.blend_rows(&narrowed[row_bytes * (down.first[y] - top)], row_bytes,
                       &down.weights[y * down.taps], down.size[y],
                       &resized.pixels[row_bytes * y]);
  }
  return resized;
}

}  // namespace finetune
