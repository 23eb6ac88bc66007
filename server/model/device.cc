#include "server/model/device.h"

#include <exception>
#include <memory>

#include "ATen/DeviceAccelerator.h"
#include "ATen/core/CachingHostAllocator.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "torch/torch.h"
#ifdef FINETUNE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace finetune {

absl::StatusOr<std::string> ResolveDevice(absl::string_view name) {
  if (name == "cpu") return "cpu";
  const int gpus = torch::cuda::is_available()
                       ? static_cast<int>(torch::cuda::device_count())
                       : 0;
  if (name == "auto") return gpus > 0 ? "cuda:0" : "cpu";
  int index = 0;
  const bool numbered = absl::StartsWith(name, "cuda:") &&
                        absl::SimpleAtoi(name.substr(5), &index) && index >= 0;
  if (name != "cuda" && !numbered) {
    return InvalidFieldError("device", "auto, cpu, cuda or cuda:N");
  }
  if (index >= gpus) {
    return PreconditionError(
        "DEVICE", name,
        absl::StrCat("device ", name, " was asked for, but ",
                     gpus == 0 ? "no CUDA GPU can be used here"
                               : absl::StrCat("there are only ", gpus)));
  }
  return absl::StrCat("cuda:", index);
}

absl::Status CheckDevice(const std::string& device) try {
  ForgetCudaError();
  const auto all_ones = [&device](at::IntArrayRef shape) {
    return torch::ones(shape, torch::Device(device));
  };
  // Each output is the sum of 3 x 3 x 3 products of ones.
  const double sum =
      torch::conv2d(all_ones({1, 3, 8, 8}), all_ones({4, 3, 3, 3}))
          .sum()
          .item<double>();
  if (sum == 4 * 6 * 6 * 27) return absl::OkStatus();
  return PreconditionError(
      "DEVICE", device,
      absl::StrCat(DeviceText(device), " computes wrong numbers"));
} catch (const std::exception& e) {
  ForgetCudaError();
  return PreconditionError("DEVICE", device,
                           absl::StrCat(DeviceText(device), " cannot be used: ",
                                        FirstLine(e.what())));
}

void ForgetCudaError() {
#ifdef FINETUNE_WITH_CUDA
  (void)cudaGetLastError();
#endif
}

bool IsOutOfGpuMemory(absl::string_view what) {
  return absl::StrContains(what, "out of memory") ||
         absl::StrContains(what, "STATUS_ALLOC_FAILED") ||
         // PyTorch asks NVML for the words of the message, and MIG has no NVML.
         absl::StrContains(what, "NVML_SUCCESS ==") ||
         // cuDNN found no room for any kernel's workspace.
         absl::StrContains(what, "unable to find an engine");
}

bool IsOutOfCpuMemory(absl::string_view what) {
  return absl::StrContains(what, "DefaultCPUAllocator");
}

absl::string_view FirstLine(absl::string_view what) {
  return what.substr(0, what.find('\n'));
}

std::string DeviceText(const std::string& device) {
#ifdef FINETUNE_WITH_CUDA
  const torch::Device gpu(device);
  cudaDeviceProp properties;
  if (gpu.is_cuda() &&
      cudaGetDeviceProperties(&properties, gpu.index()) == cudaSuccess) {
    return absl::StrCat(properties.name, " (", device, ", compute capability ",
                        properties.major, ".", properties.minor, ")");
  }
  ForgetCudaError();
#endif
  return device;
}

Buffer AllocatePinned(size_t bytes) {
  const auto memory = std::make_shared<c10::DataPtr>(
      at::getHostAllocator(at::kCUDA)->allocate(bytes));
  return Buffer(memory, static_cast<uint8_t*>(memory->get()));
}

std::optional<GpuMemory> MemoryOfGpu(const std::string& device) try {
  const torch::Device gpu(device);
  if (!gpu.is_cuda()) return std::nullopt;
  const auto [free, total] = at::accelerator::getMemoryInfo(gpu.index());
  return GpuMemory{.total_bytes = total, .free_bytes = free};
} catch (const c10::Error&) {
  return std::nullopt;
}

std::string LibTorchVersion() { return TORCH_VERSION; }

}  // namespace finetune
