// The training itself: ImageNet's weights, a new head, two learning rates and
// the plain loop over epochs.

#ifndef SERVER_TRAINING_FINE_TUNER_H_
#define SERVER_TRAINING_FINE_TUNER_H_

#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "finetune/trainer/trainer.pb.h"
#include "server/data/dataset.h"
#include "server/model/resnet18.h"
#include "server/model/weights.h"
#include "server/training/checkpoint.h"
#include "server/training/metrics.h"
#include "server/training/progress_meter.h"
#include "server/training/step_pacer.h"
#include "torch/torch.h"

namespace finetune {

// Trains one model. Not thread-safe.
//
// On the CPU the weights are a function of the spec, the files, the number of
// intra-op threads and the machine's instruction set: same inputs, same bits,
// also when the process ended at any point and another one took up its work.
class FineTuner {
 public:
  using ReportFn = std::function<void(const v1::Progress&)>;

  struct Result {
    StateDict best;  // The weights after the epoch with the best test accuracy.
    double test_accuracy = 0;
  };

  // Whether a server on the same GPU is answering calls right now.
  using ServingFn = std::function<bool()>;

  // Takes up the newest checkpoint in spec.checkpoint_dir. Where there is none,
  // loads the pretrained weights, or draws them from the seed. Without a
  // checkpoint_dir no checkpoint is read or written. `dataset` must outlive
  // this.
  //
  // NOT_FOUND or INVALID_ARGUMENT if the weight file is missing or is not a
  // ResNet18's; DATA_LOSS or FAILED_PRECONDITION as Checkpoints::Restore.
  static absl::StatusOr<FineTuner> Create(
      const trainer::TrainerSpec& spec, const Dataset& dataset,
      const ProgressMeter::ClockFn& clock = absl::Now,
      const ServingFn& is_serving = [] { return false; });

  // Where the checkpoint stood, for people; "" if there was none.
  const std::string& resumed() const { return resumed_; }

  // Trains for all epochs, or those that are left. `report` hears of a resumed
  // training's state, of every epoch's end, and in between at most five times
  // a second. Writes a checkpoint after every epoch, and within one when
  // spec.checkpoint_interval has passed since the last. Once only.
  //
  // CANCELLED within one step of a stop request, with a checkpoint of where it
  // stopped; OUT_OF_RANGE if the loss becomes infinite or NaN, with the step
  // and what to try, or if no epoch ends with finite weights and test loss;
  // RESOURCE_EXHAUSTED if a checkpoint cannot be written; what the loader
  // returns if a file changed since the scan. Throws what Torch throws.
  absl::StatusOr<Result> Run(const ReportFn& report,
                             const std::stop_token& stop);

 private:
  FineTuner(const trainer::TrainerSpec& spec, const Dataset& dataset,
            const ProgressMeter::ClockFn& clock, const ServingFn& is_serving,
            ResNet18 net);

  absl::Status Resume();
  absl::Status TrainEpoch(const ReportFn& report, const std::stop_token& stop);
  absl::StatusOr<v1::EpochMetrics> Evaluate(const ReportFn& report,
                                            const std::stop_token& stop);
  absl::Status EndEpoch(v1::EpochMetrics metrics);
  absl::Status StopOrCheckpoint(const std::stop_token& stop);
  absl::Status WriteCheckpoint();
  absl::Status ReadTrainingSums();
  void Warn(const std::string& warning);
  int RunningEpoch() const;
  void ReportSometimes(const ReportFn& report);

  trainer::TrainerSpec spec_;
  const Dataset* dataset_;
  ProgressMeter::ClockFn clock_;
  torch::Device device_;
  ResNet18 net_;
  torch::optim::SGD sgd_;
  StepPacer pacer_;
  ProgressMeter meter_;
  Sums sums_;       // Of the running epoch's training.
  StateDict best_;  // The weights after progress.best_epoch.
  std::optional<Checkpoints> checkpoints_;
  std::string resumed_;
  absl::Time last_report_ = absl::InfinitePast();
  absl::Time last_checkpoint_;
};

// Makes malloc keep what is freed, for the whole process: to be called once, at
// the start of a process that trains. Activations of 100 MB come and go with
// every step; by default each is mapped anew and its pages cleared, which on a
// CPU takes a quarter of a step.
void KeepFreedMemory();

}  // namespace finetune

#endif  // SERVER_TRAINING_FINE_TUNER_H_
