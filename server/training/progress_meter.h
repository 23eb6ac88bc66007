// Turns steps into what a watcher wants to know: how far, how fast, how long
// still.

#ifndef SERVER_TRAINING_PROGRESS_METER_H_
#define SERVER_TRAINING_PROGRESS_METER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "finetune/trainer/trainer.pb.h"
#include "finetune/v1/job.pb.h"

namespace finetune {

// Not thread-safe.
class ProgressMeter {
 public:
  using ClockFn = std::function<absl::Time()>;

  struct Plan {
    int epochs = 0;
    int batch_size = 0;
    int64_t train_images = 0;
    int64_t test_images = 0;
  };

  explicit ProgressMeter(const Plan& plan, ClockFn clock = absl::Now);

  void BeginEpoch(int epoch);  // 1-based.

  // After a training step on `images`, of whose time `data_wait` went by
  // before the batch was there.
  void TrainStep(int64_t images, absl::Duration data_wait);

  // After a test batch.
  void TestStep(int64_t images);

  // After BeginEpoch, all but the losses and accuracies set. Whoever measured
  // these fills them in.
  const v1::Progress& progress() const { return progress_; }

  // Training steps of the running epoch; 0 between two epochs.
  int64_t epoch_steps() const { return epoch_steps_; }
  int64_t steps_per_epoch() const;

  // Completes the epoch: fills in its number, duration and images/s, appends
  // it and finds the best one, which a `finite` epoch alone can be: one whose
  // weights and test loss are. Returns whether it is this epoch. Keeps the
  // progress below 768 KiB: a job's record holds it, and so does every event.
  // The oldest epochs lose their details by class, the best one last.
  bool EndEpoch(v1::EpochMetrics metrics, bool finite = true);

  // The loss and accuracy of the epoch so far.
  void SetTraining(double loss, double accuracy);

  void AddWarning(std::string warning);

  // Notes in `state` all that Restore needs: progress, position and times.
  void Save(trainer::CheckpointState& state) const;

  // Goes on from `state`, of a meter with the same plan, as if no time had
  // passed since: speed and ETA speak of the work of all the processes. In the
  // middle of an epoch (epoch_steps() > 0) there must be no BeginEpoch. What a
  // test phase had done is to be done again; fraction_done waits meanwhile.
  void Restore(const trainer::CheckpointState& state);

 private:
  void ResetEpoch();
  void UpdateFraction();

  const Plan plan_;
  const ClockFn clock_;
  absl::Time start_;
  absl::Time epoch_start_;
  absl::Duration epoch_train_time_;  // Up to the latest training step.
  absl::Duration epoch_data_wait_;
  int64_t epoch_steps_ = 0;
  int64_t epoch_images_ = 0;
  double work_done_ = 0;  // In forward passes of one image.
  v1::Progress progress_;
};

}  // namespace finetune

#endif  // SERVER_TRAINING_PROGRESS_METER_H_
