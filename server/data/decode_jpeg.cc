#include "server/data/decode_jpeg.h"

// jpeglib.h needs cstdio, and jerror.h jpeglib.h.
// clang-format off
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include <csetjmp>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/data/image_size.h"

namespace finetune {
namespace {

// Each costs a pass over the whole image; usual files have about ten.
constexpr int kMaxScans = 500;

// One JPEG file in libjpeg, which leaves its functions on an error by longjmp.
// Only the three methods that call setjmp call functions that may do so, and
// none of them has a local variable with a destructor.
class JpegReader {
 public:
  explicit JpegReader(absl::string_view bytes);
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  // Each returns false where status() tells of an error. Call them in this
  // order.
  bool ReadHeader();
  // `out` has a row of width() * channels() bytes for each of height().
  bool ReadPixels(uint8_t* out);

  int width() const { return static_cast<int>(info_.image_width); }
  int height() const { return static_cast<int>(info_.image_height); }
  bool is_cmyk() const {
    return info_.jpeg_color_space == JCS_CMYK ||
           info_.jpeg_color_space == JCS_YCCK;
  }
  int channels() const { return is_cmyk() ? 4 : 3; }

  absl::Status status() const {
    return absl::InvalidArgumentError(absl::StrCat("JPEG: ", message_));
  }

 private:
  static JpegReader& Of(j_common_ptr info) {
    return *static_cast<JpegReader*>(info->client_data);
  }
  static void OnError(j_common_ptr info);
  static void OnMessage(j_common_ptr info, int level);
  static void OnProgress(j_common_ptr info);

  bool Create();

  const absl::string_view bytes_;
  jpeg_decompress_struct info_ = {};
  jpeg_error_mgr errors_ = {};
  jpeg_progress_mgr progress_ = {};
  std::jmp_buf jump_;
  bool created_ = false;
  bool ends_early_ = false;
  char message_[JMSG_LENGTH_MAX] = "";
};

JpegReader::JpegReader(absl::string_view bytes) : bytes_(bytes) {
  info_.err = jpeg_std_error(&errors_);
  errors_.error_exit = OnError;
  errors_.emit_message = OnMessage;
  progress_.progress_monitor = OnProgress;
  info_.client_data = this;  // jpeg_create_decompress keeps it, and err.
  created_ = Create();
}

void JpegReader::OnError(j_common_ptr info) {
  JpegReader& reader = Of(info);
  reader.errors_.format_message(info, reader.message_);
  std::longjmp(reader.jump_, 1);
}

// A negative level is a warning; others only trace.
void JpegReader::OnMessage(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
    Of(info).ends_early_ = true;
  }
}

void JpegReader::OnProgress(j_common_ptr info) {
  const auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
  if (decompress->input_scan_number <= kMaxScans) return;
  JpegReader& reader = Of(info);
  std::snprintf(reader.message_, sizeof(reader.message_), "more than %d scans",
                kMaxScans);
  std::longjmp(reader.jump_, 1);
}

bool JpegReader::Create() {
  if (setjmp(jump_) != 0) return false;
  jpeg_create_decompress(&info_);
  info_.progress = &progress_;
  jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes_.data()),
               bytes_.size());
  return true;
}

bool JpegReader::ReadHeader() {
  if (!created_ || setjmp(jump_) != 0) return false;
  jpeg_read_header(&info_, TRUE);
  return true;
}

bool JpegReader::ReadPixels(uint8_t* out) {
  if (setjmp(jump_) != 0) return false;
  info_.out_color_space = is_cmyk() ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&info_);
  const size_t row_bytes = size_t{info_.output_width} * channels();
  while (info_.output_scanline < info_.output_height) {
    JSAMPROW row = out + row_bytes * info_.output_scanline;
    jpeg_read_scanlines(&info_, &row, 1);
  }
  jpeg_finish_decompress(&info_);  // Reads on to the end marker.
  if (!ends_early_) return true;
  std::snprintf(message_, sizeof(message_), "Premature end of JPEG file");
  return false;
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

}  // namespace

absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes,
                                    const DecodeLimits& limits) {
  JpegReader reader(bytes);
  if (!reader.ReadHeader()) return reader.status();
  RETURN_IF_ERROR(
      CheckSize({reader.width(), reader.height()}, limits.max_pixels));
  RgbImage image = MakeImage(reader.width(), reader.height());
  if (reader.is_cmyk()) {
    const auto cmyk = std::make_unique_for_overwrite<uint8_t[]>(
        size_t{4} * image.width * image.height);
    if (!reader.ReadPixels(cmyk.get())) return reader.status();
    InvertedCmykToRgb(cmyk.get(), image);
  } else if (!reader.ReadPixels(image.pixels.get())) {
    return reader.status();
  }
  return image;
}

}  // namespace finetune
