// Where tensors live.

#ifndef SERVER_MODEL_DEVICE_H_
#define SERVER_MODEL_DEVICE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/buffer.h"

namespace finetune {

// "auto" is cuda:0 if there is one, else cpu; "cpu", "cuda" (cuda:0) and
// "cuda:N" are themselves. Returns "cpu" or "cuda:N", which torch::Device
// takes. N counts what CUDA_VISIBLE_DEVICES leaves, whole GPUs or MIG
// instances.
//
// INVALID_ARGUMENT for another name; FAILED_PRECONDITION if CUDA was asked for
// and this machine, or this LibTorch, has none, or no such GPU.
absl::StatusOr<std::string> ResolveDevice(absl::string_view name);

// Runs a small convolution on a device as ResolveDevice returns it, which takes
// some seconds on a GPU that this process has not used yet.
//
// FAILED_PRECONDITION, with the GPU's name and what CUDA says, if that fails
// or gives wrong numbers: this LibTorch has no kernels for the GPU, its memory
// is full, another process has it for itself.
absl::Status CheckDevice(const std::string& device);

// Whether the device still computes; for after an error. A CUDA context that
// has failed stays so. True where there is only no memory left, and for "cpu".
// Does not throw. Thread-safe.
bool DeviceWorks(const std::string& device);

// Makes CUDA forget an error that has passed, or the next kernel that this
// thread starts would seem to have failed with it.
void ForgetCudaError();

// Whether the message of a c10::Error says that the GPU has too little memory
// left: PyTorch's own allocator, CUDA, cuBLAS and cuDNN each say it otherwise.
bool IsOutOfGpuMemory(absl::string_view what);

// The same of the machine's own memory.
bool IsOutOfCpuMemory(absl::string_view what);

// Of a c10::Error's message: CUDA's go on with advice on how to debug it.
absl::string_view FirstLine(absl::string_view what);

// "NVIDIA H100 80GB HBM3 (cuda:0, compute capability 9.0)"; the device itself
// where that is not known.
std::string DeviceText(const std::string& device);

// Pinned memory, from which copies to a GPU need no CPU; for any GPU of this
// process. Throws what Torch throws. REQUIRES: there is a GPU.
Buffer AllocatePinned(size_t bytes);

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
