// Tensors in the safetensors format; safetensors_view.h says what that is.

#ifndef SERVER_MODEL_SAFETENSORS_H_
#define SERVER_MODEL_SAFETENSORS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/model/weights.h"

namespace finetune {

// Types F64, F32, F16, BF16, I64 and I32. The tensors own their memory.
//
// INVALID_ARGUMENT as ViewSafetensors.
absl::StatusOr<StateDict> ParseSafetensors(absl::string_view bytes);

// The file's content, float32 and int64 tensors only. Reads in Python with
// safetensors.torch.load_file.
std::string SerializeSafetensors(const StateDict& state);

}  // namespace finetune

#endif  // SERVER_MODEL_SAFETENSORS_H_
