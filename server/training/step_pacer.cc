#include "server/training/step_pacer.h"

#include <utility>

#include "c10/core/impl/VirtualGuardImpl.h"

namespace finetune {

StepPacer::StepPacer(torch::Device device, std::function<bool()> must_wait)
    : device_(device), must_wait_(std::move(must_wait)) {}

void StepPacer::EndStep() {
  if (!device_.is_cuda()) return;
  steps_.emplace_back(device_.type());
  steps_.back().record(
      c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  const size_t ahead = must_wait_() ? 0 : kStepsAhead;
  while (steps_.size() > ahead) {
    steps_.front().synchronize();
    steps_.pop_front();
  }
}

void StepPacer::Finish() {
  for (const c10::Event& step : steps_) step.synchronize();
  steps_.clear();
}

}  // namespace finetune
