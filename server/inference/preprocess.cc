#include "server/inference/preprocess.h"

#include "common/status_macros.h"
#include "server/data/transforms.h"

namespace finetune {

PreprocessFn MakePreprocess(DecodeLimits limits) {
  return [limits](absl::string_view image,
                  absl::Span<uint8_t> pixels) -> absl::Status {
    if (pixels.size() != kInputBytes) {
      return absl::InternalError("the input has another size");
    }
    ASSIGN_OR_RETURN(const RgbImage decoded, DecodeRgb(image, limits));
    TestTransform(decoded, pixels.data());
    return absl::OkStatus();
  };
}

}  // namespace finetune
