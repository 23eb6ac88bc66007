#include "server/data/decode.h"

#include <exception>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/data/decode_jpeg.h"
#include "server/data/foreign_format.h"
#include "server/data/image_size.h"
#ifdef FINETUNE_WITH_OPENCV
#include "opencv2/core.hpp"
#include "opencv2/imgcodecs.hpp"
#include "opencv2/imgproc.hpp"
#endif

namespace finetune {
namespace {

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

absl::Status NotAnImage(absl::string_view bytes) {
  if (bytes.empty()) return absl::InvalidArgumentError("the file is empty");
  const absl::string_view what = LooksLike(bytes);
  return absl::InvalidArgumentError(
      absl::StrCat("not a JPEG, PNG, WebP or BMP image",
                   what.empty() ? "" : "; it looks like ", what));
}

}  // namespace

absl::StatusOr<RgbImage> DecodeRgb(absl::string_view bytes,
                                   const DecodeLimits& limits) try {
  if (IsJpeg(bytes)) return DecodeJpeg(bytes, limits);
  const std::optional<ImageSize> size = HeaderSize(bytes);
  if (!size.has_value()) return NotAnImage(bytes);
  RETURN_IF_ERROR(CheckSize(*size, limits.max_pixels));
  return DecodeWithOpenCv(bytes, *size);
} catch (const std::exception& e) {
  return absl::InvalidArgumentError(absl::StrCat("cannot decode: ", e.what()));
}

}  // namespace finetune
