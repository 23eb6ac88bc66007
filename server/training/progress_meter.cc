#include "server/training/progress_meter.h"

#include <algorithm>
#include <utility>

#include "common/proto_time.h"

namespace finetune {
namespace {

// A training step costs about three forward passes: one forward, two back.
constexpr double kTrainWork = 3;

// Leaves room for the rest in a job's record of 1 MiB.
constexpr size_t kMaxProgressBytes = 768 << 10;

double WorkOf(int64_t train_images, int64_t test_images) {
  return kTrainWork * static_cast<double>(train_images) +
         static_cast<double>(test_images);
}

void DropDetails(v1::EpochMetrics& epoch) {
  epoch.clear_confusion();
  epoch.clear_classes();
}

void LimitSize(v1::Progress& progress) {
  for (v1::EpochMetrics& epoch : *progress.mutable_epochs()) {
    if (epoch.classes().empty()) continue;  // Dropped, or there are too many.
    if (progress.ByteSizeLong() <= kMaxProgressBytes) return;
    if (epoch.epoch() != progress.best_epoch()) DropDetails(epoch);
  }
  if (progress.ByteSizeLong() <= kMaxProgressBytes) return;
  if (progress.best_epoch() == 0) return;
  DropDetails(*progress.mutable_epochs(progress.best_epoch() - 1));
}

}  // namespace

ProgressMeter::ProgressMeter(const Plan& plan, ClockFn clock)
    : plan_(plan), clock_(std::move(clock)), start_(clock_()) {
  progress_.set_total_epochs(plan_.epochs);
  progress_.set_total_steps(steps_per_epoch() * plan_.epochs);
}

int64_t ProgressMeter::steps_per_epoch() const {
  return (plan_.train_images + plan_.batch_size - 1) / plan_.batch_size;
}

void ProgressMeter::BeginEpoch(int epoch) {
  epoch_start_ = clock_();
  ResetEpoch();
  progress_.set_epoch(epoch);
  progress_.set_train_loss(0);
  progress_.set_train_accuracy(0);
  progress_.set_images_per_second(0);
  progress_.set_data_wait_fraction(0);
}

void ProgressMeter::TrainStep(int64_t images, absl::Duration data_wait) {
  ++epoch_steps_;
  epoch_images_ += images;
  epoch_data_wait_ += data_wait;
  epoch_train_time_ = clock_() - epoch_start_;
  work_done_ += WorkOf(images, 0);
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
  work_done_ += WorkOf(0, images);
  UpdateFraction();
}

void ProgressMeter::SetTraining(double loss, double accuracy) {
  progress_.set_train_loss(loss);
  progress_.set_train_accuracy(accuracy);
}

void ProgressMeter::AddWarning(std::string warning) {
  progress_.add_warnings(std::move(warning));
}

bool ProgressMeter::EndEpoch(v1::EpochMetrics metrics, bool finite) {
  metrics.set_epoch(progress_.epoch());
  metrics.set_images_per_second(progress_.images_per_second());
  *metrics.mutable_duration() = ToProto(clock_() - epoch_start_);
  const bool best =
      finite &&
      (progress_.best_epoch() == 0 ||
       metrics.test_accuracy() >=
           progress_.epochs(progress_.best_epoch() - 1).test_accuracy());
  if (best) progress_.set_best_epoch(metrics.epoch());
  *progress_.add_epochs() = std::move(metrics);
  LimitSize(progress_);
  ResetEpoch();
  return best;
}

void ProgressMeter::Save(trainer::CheckpointState& state) const {
  *state.mutable_progress() = progress_;
  state.set_epoch_steps(epoch_steps_);
  state.set_images(epoch_images_);
  *state.mutable_train_time() = ToProto(epoch_train_time_);
  *state.mutable_data_wait() = ToProto(epoch_data_wait_);
  *state.mutable_total_time() = ToProto(clock_() - start_);
}

void ProgressMeter::Restore(const trainer::CheckpointState& state) {
  progress_ = state.progress();
  epoch_steps_ = state.epoch_steps();
  epoch_images_ = state.images();
  epoch_train_time_ = FromProto(state.train_time());
  epoch_data_wait_ = FromProto(state.data_wait());
  const absl::Time now = clock_();
  start_ = now - FromProto(state.total_time());
  epoch_start_ = now - epoch_train_time_;
  work_done_ =
      progress_.epochs_size() * WorkOf(plan_.train_images, plan_.test_images) +
      WorkOf(epoch_images_, 0);
  UpdateFraction();
}

void ProgressMeter::ResetEpoch() {
  epoch_train_time_ = epoch_data_wait_ = absl::ZeroDuration();
  epoch_steps_ = epoch_images_ = 0;
}

void ProgressMeter::UpdateFraction() {
  const double work =
      plan_.epochs * WorkOf(plan_.train_images, plan_.test_images);
  const double fraction = std::min(1.0, work_done_ / work);
  progress_.set_fraction_done(std::max(progress_.fraction_done(), fraction));
  if (fraction > 0) {
    *progress_.mutable_eta() =
        ToProto((clock_() - start_) * ((1 - fraction) / fraction));
  }
}

}  // namespace finetune
