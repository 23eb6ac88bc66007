#include "server/training/progress_meter.h"

#include <algorithm>
#include <utility>

#include "common/proto_time.h"

namespace finetune {
namespace {

// A training step costs about three forward passes: one forward, two back.
constexpr double kTrainWork = 3;

}  // namespace

ProgressMeter::ProgressMeter(const Plan& plan, ClockFn clock)
    : plan_(plan), clock_(std::move(clock)), start_(clock_()) {
  const int64_t steps =
      (plan_.train_images + plan_.batch_size - 1) / plan_.batch_size;
  progress_.set_total_epochs(plan_.epochs);
  progress_.set_total_steps(steps * plan_.epochs);
}

void ProgressMeter::BeginEpoch(int epoch) {
  epoch_start_ = clock_();
  epoch_train_time_ = epoch_data_wait_ = absl::ZeroDuration();
  epoch_images_ = 0;
  progress_.set_epoch(epoch);
  progress_.set_train_loss(0);
  progress_.set_train_accuracy(0);
  progress_.set_images_per_second(0);
  progress_.set_data_wait_fraction(0);
}

void ProgressMeter::TrainStep(int64_t images, absl::Duration data_wait) {
  epoch_images_ += images;
  epoch_data_wait_ += data_wait;
  epoch_train_time_ = clock_() - epoch_start_;
  work_done_ += kTrainWork * static_cast<double>(images);
  progress_.set_step(progress_.step() + 1);
  if (epoch_train_time_ > absl::ZeroDuration()) {
    progress_.set_images_per_second(static_cast<double>(epoch_images_) /
                                    absl::ToDoubleSeconds(epoch_train_time_));
    progress_.set_data_wait_fraction(
        absl::FDivDuration(epoch_data_wait_, epoch_train_time_));
  }
  UpdateFraction();
}

void ProgressMeter::TestStep(int64_t images) {
  work_done_ += static_cast<double>(images);
  UpdateFraction();
}

void ProgressMeter::SetTraining(double loss, double accuracy) {
  progress_.set_train_loss(loss);
  progress_.set_train_accuracy(accuracy);
}

bool ProgressMeter::EndEpoch(v1::EpochMetrics metrics) {
  metrics.set_epoch(progress_.epoch());
  metrics.set_images_per_second(progress_.images_per_second());
  *metrics.mutable_duration() = ToProto(clock_() - epoch_start_);
  const bool best =
      progress_.best_epoch() == 0 ||
      metrics.test_accuracy() >=
          progress_.epochs(progress_.best_epoch() - 1).test_accuracy();
  if (best) progress_.set_best_epoch(metrics.epoch());
  *progress_.add_epochs() = std::move(metrics);
  return best;
}

void ProgressMeter::UpdateFraction() {
  const double work =
      plan_.epochs * (kTrainWork * static_cast<double>(plan_.train_images) +
                      static_cast<double>(plan_.test_images));
  const double fraction = std::min(1.0, work_done_ / work);
  progress_.set_fraction_done(fraction);
  if (fraction > 0) {
    *progress_.mutable_eta() =
        ToProto((clock_() - start_) * ((1 - fraction) / fraction));
  }
}

}  // namespace finetune
