// Where tensors live.

#ifndef SERVER_MODEL_DEVICE_H_
#define SERVER_MODEL_DEVICE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

// "auto" is cuda:0 if there is one, else cpu; "cpu", "cuda" (cuda:0) and
// "cuda:N" are themselves. Returns "cpu" or "cuda:N", which torch::Device
// takes.
//
// INVALID_ARGUMENT for another name; FAILED_PRECONDITION if CUDA was asked for
// and this machine, or this LibTorch, has none, or no such GPU.
absl::StatusOr<std::string> ResolveDevice(absl::string_view name);

// "2.13.0", say.
std::string LibTorchVersion();

}  // namespace finetune

#endif  // SERVER_MODEL_DEVICE_H_
