// Any bytes are an image within the limits or an error.

#include <cstdint>
#include <cstdlib>

#include "common/testing/read_all.h"
#include "server/data/decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const finetune::DecodeLimits limits{.max_pixels = 1 << 18};
  const auto image =
      finetune::DecodeRgb({reinterpret_cast<const char*>(data), size}, limits);
  if (!image.ok()) return 0;
  const int64_t pixels = int64_t{image->width} * image->height;
  if (image->width < 1 || image->height < 1 || pixels > limits.max_pixels) {
    abort();
  }
  finetune::testing::ReadAll(image->pixels.get(),
                             3 * static_cast<size_t>(pixels));
  return 0;
}
