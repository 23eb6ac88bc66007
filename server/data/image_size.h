// The size an image claims, read from its header alone, so that a bomb is
// refused before any memory is spent on it.

#ifndef SERVER_DATA_IMAGE_SIZE_H_
#define SERVER_DATA_IMAGE_SIZE_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace finetune {

struct ImageSize {
  int64_t width = 0;
  int64_t height = 0;
};

// INVALID_ARGUMENT if `size` has no pixels, more than `max_pixels`, or one side
// more than 100 times the other.
absl::Status CheckSize(const ImageSize& size, int64_t max_pixels);

bool IsJpeg(absl::string_view bytes);

// Of a PNG, WebP or BMP image; nullopt for anything else. The size may be
// zero, negative or absurd: it is what the header says.
std::optional<ImageSize> HeaderSize(absl::string_view bytes);

}  // namespace finetune

#endif  // SERVER_DATA_IMAGE_SIZE_H_
