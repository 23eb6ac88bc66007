// JPEG to RGB pixels by libjpeg's own API, whose error manager sees every
// warning. TurboJPEG's tells only of the first one, behind which a truncated
// file may hide, and refuses samplings that Pillow reads.

#ifndef SERVER_DATA_DECODE_JPEG_H_
#define SERVER_DATA_DECODE_JPEG_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/data/decode.h"

namespace finetune {

// Thread-safe. Every sampling, grey, RGB, CMYK and YCCK; the pixels are
// Pillow's. Prints nothing.
//
// INVALID_ARGUMENT if `bytes` end before the image does or cannot be decoded,
// or the image is not within `limits`. Data that is damaged but goes on to an
// end marker is decoded as far as libjpeg can, as Pillow does.
absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes,
                                    const DecodeLimits& limits);

}  // namespace finetune

#endif  // SERVER_DATA_DECODE_JPEG_H_
