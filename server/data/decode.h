// Encoded photos to RGB pixels, the same that Pillow's
// Image.open(file).convert("RGB") gives: palettes and grey are expanded, alpha
// is dropped, 16-bit colours lose their lower 8 bits and 16-bit grey is cut off
// at 255, CMYK is converted by Pillow's formula, and EXIF rotation is ignored.
//
// JPEG goes to libjpeg-turbo itself (decode_jpeg.h), because OpenCV neither
// tells of a truncated file nor converts CMYK as Pillow does; all else to
// OpenCV.

#ifndef SERVER_DATA_DECODE_H_
#define SERVER_DATA_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

struct RgbImage {
  int width = 0;
  int height = 0;
  std::unique_ptr<uint8_t[]> pixels;  // [height][width][3], no padding.
};

// Its pixels are not initialised.
inline RgbImage MakeImage(int width, int height) {
  return {
      width, height,
      std::make_unique_for_overwrite<uint8_t[]>(size_t{3} * width * height)};
}

struct DecodeLimits {
  // Pixels, checked before any are decoded; 3 bytes each.
  int64_t max_pixels = 64'000'000;
  // Encoded bytes of a file in a data set.
  uint64_t max_file_bytes = 64 << 20;
};

// Thread-safe. Does not throw.
//
// INVALID_ARGUMENT if `bytes` are not a JPEG, PNG, WebP or BMP image (the
// message says what they look like), are truncated or corrupt beyond decoding,
// or hold more than `max_pixels` or one side more than 100 times the other.
absl::StatusOr<RgbImage> DecodeRgb(absl::string_view bytes,
                                   const DecodeLimits& limits);

}  // namespace finetune

#endif  // SERVER_DATA_DECODE_H_
