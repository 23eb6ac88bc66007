#include "server/model/device.h"

#include "ATen/DeviceAccelerator.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "torch/torch.h"

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
