// The training itself: ImageNet's weights, a new head, two learning rates and
// the plain loop over epochs.

#ifndef SERVER_TRAINING_FINE_TUNER_H_
#define SERVER_TRAINING_FINE_TUNER_H_

#include <functional>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetune/trainer/trainer.pb.h"
#include "server/data/dataset.h"
#include "server/data/loader.h"
#include "server/model/resnet18.h"
#include "server/model/weights.h"
#include "server/training/progress_meter.h"
#include "torch/torch.h"

namespace finetune {

// Trains one model. Not thread-safe.
//
// On the CPU the weights are a function of the spec, the files, the number of
// intra-op threads and the machine's instruction set: same inputs, same bits.
class FineTuner {
 public:
  using ReportFn = std::function<void(const v1::Progress&)>;

  struct Result {
    StateDict best;  // The weights after the epoch with the best test accuracy.
    double test_accuracy = 0;
  };

  // Loads the weights, or draws them from the seed. `dataset` must outlive
  // this. NOT_FOUND or INVALID_ARGUMENT if the weight file is missing or is
  // not a ResNet18's.
  static absl::StatusOr<FineTuner> Create(const trainer::TrainerSpec& spec,
                                          const Dataset& dataset);

  // Trains for all epochs. `report` hears of every epoch's end, and in between
  // at most five times a second.
  //
  // CANCELLED within one step of a stop request; OUT_OF_RANGE if the loss
  // becomes infinite or NaN, with the step and what to try; what the loader
  // returns if a file changed since the scan. Throws what Torch throws.
  absl::StatusOr<Result> Run(const ReportFn& report,
                             const std::stop_token& stop);

 private:
  FineTuner(const trainer::TrainerSpec& spec, const Dataset& dataset,
            ResNet18 net);

  absl::Status TrainEpoch(int epoch, const ReportFn& report,
                          const std::stop_token& stop);
  absl::StatusOr<v1::EpochMetrics> Evaluate(const ReportFn& report,
                                            const std::stop_token& stop);
  torch::Tensor ImagesOf(const Batch& batch) const;
  torch::Tensor LabelsOf(const Batch& batch) const;
  void ReportSometimes(const ReportFn& report);

  trainer::TrainerSpec spec_;
  const Dataset* dataset_;
  torch::Device device_;
  ResNet18 net_;
  torch::optim::SGD sgd_;
  ProgressMeter meter_;
  absl::Time last_report_;
};

// Makes malloc keep what is freed, for the whole process: to be called once, at
// the start of a process that trains. Activations of 100 MB come and go with
// every step; by default each is mapped anew and its pages cleared, which on a
// CPU takes a quarter of a step.
void KeepFreedMemory();

}  // namespace finetune

#endif  // SERVER_TRAINING_FINE_TUNER_H_
