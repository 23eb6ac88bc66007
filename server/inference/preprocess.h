// What every model's images go through before it sees them; no Torch.

#ifndef SERVER_INFERENCE_PREPROCESS_H_
#define SERVER_INFERENCE_PREPROCESS_H_

#include "server/data/decode.h"
#include "server/inference/servable.h"

namespace finetune {

// DecodeRgb and TestTransform, to pixels[kInputBytes]: the same that measured
// test accuracy while the model was trained.
PreprocessFn MakePreprocess(DecodeLimits limits);

}  // namespace finetune

#endif  // SERVER_INFERENCE_PREPROCESS_H_
