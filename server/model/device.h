// Where tensors live.

#ifndef SERVER_MODEL_DEVICE_H_
#define SERVER_MODEL_DEVICE_H_

#include <cstdint>
#include <optional>
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

struct GpuMemory {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // That no process has taken.
};

// The driver's answer for a device as ResolveDevice returns it; nothing for
// "cpu", or where there is no answer. Thread-safe. A process that has not used
// the GPU yet begins to, which takes time and memory.
std::optional<GpuMemory> MemoryOfGpu(const std::string& device);

// "2.13.0", say.
std::string LibTorchVersion();

}  // namespace finetune

#endif  // SERVER_MODEL_DEVICE_H_
