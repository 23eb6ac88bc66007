#include "server/inference/preprocess.h"

#include "common/status_macros.h"
#include "server/data/transforms.h"

namespace finetune {

PreprocessFn MakePreprocess(DecodeLimits limits) {
  return [limits](absl::string_view image,
                  absl::Span<float> input) -> absl::Status {
    if (input.size() != kInputFloats) {
      return absl::InternalError("the input has another size");
    }
    ASSIGN_OR_RETURN(const RgbImage pixels, DecodeRgb(image, limits));
    TestTransform(pixels, input.data());
    return absl::OkStatus();
  };
}

}  // namespace finetune
