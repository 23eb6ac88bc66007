// How far the CPU may run ahead of the GPU that trains.

#ifndef SERVER_TRAINING_STEP_PACER_H_
#define SERVER_TRAINING_STEP_PACER_H_

#include <deque>
#include <functional>

#include "c10/core/Event.h"
#include "torch/torch.h"

namespace finetune {

// Between steps a GPU is idle until the CPU has enqueued the next one, unless
// that has happened before. But what is enqueued also goes before the forward
// passes of a server on the same GPU, so that there each step is awaited while
// somebody waits for answers. Does nothing on a CPU. Not thread-safe.
class StepPacer {
 public:
  // `must_wait` is asked after every step.
  StepPacer(torch::Device device, std::function<bool()> must_wait);

  // After a step was enqueued on the current stream.
  void EndStep();

  // Waits for all steps.
  void Finish();

 private:
  static constexpr size_t kStepsAhead = 2;

  const torch::Device device_;
  const std::function<bool()> must_wait_;
  std::deque<c10::Event> steps_;  // Ends of those that may still run.
};

}  // namespace finetune

#endif  // SERVER_TRAINING_STEP_PACER_H_
