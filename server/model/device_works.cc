// Apart from the rest of device.h, so that a test can put its own here.

#include <exception>

#include "server/model/device.h"
#include "torch/torch.h"

namespace finetune {

bool DeviceWorks(const std::string& device) try {
  const torch::Device wanted(device);
  if (!wanted.is_cuda()) return true;
  ForgetCudaError();
  return torch::ones({16}, wanted).sum().item<float>() == 16;
} catch (const std::exception& e) {
  return IsOutOfGpuMemory(e.what());
}

}  // namespace finetune
