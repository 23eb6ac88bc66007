#include "server/data/image_size.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetune {
namespace {

constexpr int64_t kMaxAspect = 100;

// Unsigned integer of `count` bytes at `at`; the caller has checked the length.
uint32_t LittleEndian(absl::string_view bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = count; i-- > 0;) {
    value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  }
  return value;
}

uint32_t BigEndian32(absl::string_view bytes, size_t at) {
  return __builtin_bswap32(LittleEndian(bytes, at, 4));
}

// PNG, section 11.2.2: IHDR is the first chunk.
std::optional<ImageSize> PngSize(absl::string_view bytes) {
  if (bytes.size() < 24 || bytes.substr(12, 4) != "IHDR") return std::nullopt;
  return ImageSize{BigEndian32(bytes, 16), BigEndian32(bytes, 20)};
}

// BITMAPCOREHEADER (12 bytes, 16-bit sides) or any of the longer ones, whose
// height is negative for rows stored from the top.
std::optional<ImageSize> BmpSize(absl::string_view bytes) {
  if (bytes.size() < 26) return std::nullopt;
  if (LittleEndian(bytes, 14, 4) == 12) {
    return ImageSize{LittleEndian(bytes, 18, 2), LittleEndian(bytes, 20, 2)};
  }
  const auto width = static_cast<int32_t>(LittleEndian(bytes, 18, 4));
  const auto height = static_cast<int32_t>(LittleEndian(bytes, 22, 4));
  return ImageSize{width, std::abs(static_cast<int64_t>(height))};
}

// RFC 9649: the first chunk is VP8 (lossy), VP8L (lossless) or VP8X.
std::optional<ImageSize> WebpSize(absl::string_view bytes) {
  if (bytes.size() < 30) return std::nullopt;
  const absl::string_view chunk = bytes.substr(12, 4);
  if (chunk == "VP8 ") {
    return ImageSize{LittleEndian(bytes, 26, 2) & 0x3fff,
                     LittleEndian(bytes, 28, 2) & 0x3fff};
  }
  if (chunk == "VP8L") {
    const uint32_t sides = LittleEndian(bytes, 21, 4);
    return ImageSize{(sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1};
  }
  if (chunk == "VP8X") {
    return ImageSize{LittleEndian(bytes, 24, 3) + 1,
                     LittleEndian(bytes, 27, 3) + 1};
  }
  return std::nullopt;
}

}  // namespace

absl::Status CheckSize(const ImageSize& size, int64_t max_pixels) {
  if (size.width <= 0 || size.height <= 0) {
    return absl::InvalidArgumentError("the image has no pixels");
  }
  if (size.width > max_pixels / size.height) {
    return absl::InvalidArgumentError(
        absl::StrCat(size.width, " x ", size.height,
                     " pixels are more than the limit of ", max_pixels));
  }
  if (size.width > kMaxAspect * size.height ||
      size.height > kMaxAspect * size.width) {
    return absl::InvalidArgumentError(
        absl::StrCat(size.width, " x ", size.height,
                     " pixels: one side is over 100 times the other"));
  }
  return absl::OkStatus();
}

bool IsJpeg(absl::string_view bytes) {
  return absl::StartsWith(bytes, "\xff\xd8\xff");
}

std::optional<ImageSize> HeaderSize(absl::string_view bytes) {
  if (absl::StartsWith(bytes, "\x89PNG\r\n\x1a\n")) return PngSize(bytes);
  if (absl::StartsWith(bytes, "BM")) return BmpSize(bytes);
  if (absl::StartsWith(bytes, "RIFF") && bytes.size() >= 12 &&
      bytes.substr(8, 4) == "WEBP") {
    return WebpSize(bytes);
  }
  return std::nullopt;
}

}  // namespace finetune
