#include "server/data/decode.h"

#include <turbojpeg.h>

#include <exception>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/data/image_size.h"
#ifdef FINETUNE_WITH_OPENCV
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"
#endif

namespace finetune {
namespace {

constexpr int64_t kMaxAspect = 100;

absl::Status CheckSize(const ImageSize& size, const DecodeLimits& limits) {
  if (size.width <= 0 || size.height <= 0) {
    return absl::InvalidArgumentError("the image has no pixels");
  }
  if (size.width > limits.max_pixels / size.height) {
    return absl::InvalidArgumentError(
        absl::StrCat(size.width, " x ", size.height,
                     " pixels are more than the limit of ", limits.max_pixels));
  }
  if (size.width > kMaxAspect * size.height ||
      size.height > kMaxAspect * size.width) {
    return absl::InvalidArgumentError(
        absl::StrCat(size.width, " x ", size.height,
                     " pixels: one side is over 100 times the other"));
  }
  return absl::OkStatus();
}

// a * b / 255, rounded, as Pillow computes it (libImaging/ImagingUtils.h).
int MulDiv255(int a, int b) {
  const int t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}

// Pillow takes a CMYK JPEG for Adobe's, whose samples are stored inverted.
void InvertedCmykToRgb(const uint8_t* cmyk, RgbImage& image) {
  const size_t count = size_t{1} * image.width * image.height;
  for (size_t i = 0; i < count; ++i) {
    const int white = cmyk[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) {
      image.pixels[3 * i + c] =
          static_cast<uint8_t>(white - MulDiv255(255 - cmyk[4 * i + c], white));
    }
  }
}

struct TurboJpegCloser {
  void operator()(void* handle) const { tjDestroy(handle); }
};
using TurboJpeg = std::unique_ptr<void, TurboJpegCloser>;

absl::Status Decompress(void* handle, absl::string_view bytes,
                        const RgbImage& size, TJPF format, uint8_t* out) {
  const int failed = tjDecompress2(
      handle, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), out,
      size.width, /*pitch=*/0, size.height, format, TJFLAG_LIMITSCANS);
  if (failed == 0) return absl::OkStatus();
  // A warning is about stray bytes that Pillow, too, reads over, except that
  // it refuses a file which ends early.
  const absl::string_view message = tjGetErrorStr2(handle);
  if (tjGetErrorCode(handle) == TJERR_WARNING &&
      message.find("Premature end of JPEG file") == absl::string_view::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("JPEG: ", message));
}

absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes,
                                    const DecodeLimits& limits) {
  const TurboJpeg handle(tjInitDecompress());
  if (handle == nullptr) return absl::ResourceExhaustedError("out of memory");
  int width, height, subsampling, colors;
  if (tjDecompressHeader3(
          handle.get(), reinterpret_cast<const uint8_t*>(bytes.data()),
          bytes.size(), &width, &height, &subsampling, &colors) != 0 &&
      tjGetErrorCode(handle.get()) != TJERR_WARNING) {
    return absl::InvalidArgumentError(
        absl::StrCat("JPEG: ", tjGetErrorStr2(handle.get())));
  }
  RETURN_IF_ERROR(CheckSize({width, height}, limits));
  RgbImage image = MakeImage(width, height);
  if (colors == TJCS_CMYK || colors == TJCS_YCCK) {
    const auto cmyk =
        std::make_unique_for_overwrite<uint8_t[]>(size_t{4} * width * height);
    RETURN_IF_ERROR(
        Decompress(handle.get(), bytes, image, TJPF_CMYK, cmyk.get()));
    InvertedCmykToRgb(cmyk.get(), image);
  } else {
    RETURN_IF_ERROR(
        Decompress(handle.get(), bytes, image, TJPF_RGB, image.pixels.get()));
  }
  return image;
}

#ifdef FINETUNE_WITH_OPENCV
// A PNG of 16-bit grey, which Pillow cuts off at 255 instead of scaling it.
bool IsGrey16(absl::string_view bytes) {
  constexpr size_t kDepthAndColorType = 24;  // In the header chunk.
  return absl::StartsWith(bytes, "\x89PNG") &&
         bytes.substr(kDepthAndColorType, 2) == absl::string_view("\x10\0", 2);
}

absl::StatusOr<RgbImage> DecodeWithOpenCv(absl::string_view bytes,
                                          const ImageSize& size) {
  const bool grey16 = IsGrey16(bytes);
  const cv::Mat encoded(1, static_cast<int>(bytes.size()), CV_8UC1,
                        const_cast<char*>(bytes.data()));  // Only read.
  cv::Mat decoded = cv::imdecode(
      encoded, cv::IMREAD_IGNORE_ORIENTATION |
                   (grey16 ? cv::IMREAD_ANYDEPTH : cv::IMREAD_COLOR));
  if (decoded.cols != size.width || decoded.rows != size.height) {
    return absl::InvalidArgumentError("the image is truncated or corrupt");
  }
  if (grey16) decoded.convertTo(decoded, CV_8U);  // Saturates.
  RgbImage image = MakeImage(decoded.cols, decoded.rows);
  cv::Mat rgb(decoded.rows, decoded.cols, CV_8UC3, image.pixels.get());
  cv::cvtColor(decoded, rgb, grey16 ? cv::COLOR_GRAY2RGB : cv::COLOR_BGR2RGB);
  return image;
}
#else
absl::StatusOr<RgbImage> DecodeWithOpenCv(absl::string_view, const ImageSize&) {
  return absl::InvalidArgumentError("this build decodes JPEG alone");
}
#endif

}  // namespace

absl::StatusOr<RgbImage> DecodeRgb(absl::string_view bytes,
                                   const DecodeLimits& limits) try {
  if (IsJpeg(bytes)) return DecodeJpeg(bytes, limits);
  const std::optional<ImageSize> size = HeaderSize(bytes);
  if (!size.has_value()) {
    return absl::InvalidArgumentError(
        bytes.empty() ? "the file is empty"
                      : "not a JPEG, PNG, WebP or BMP image");
  }
  RETURN_IF_ERROR(CheckSize(*size, limits));
  return DecodeWithOpenCv(bytes, *size);
} catch (const std::exception& e) {
  return absl::InvalidArgumentError(absl::StrCat("cannot decode: ", e.what()));
}

}  // namespace finetune
