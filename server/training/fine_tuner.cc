#include "server/training/fine_tuner.h"

#include <malloc.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "server/data/loader.h"
#include "server/training/device_batches.h"
#include "server/training/loaders.h"
#include "server/training/param_groups.h"
#include "server/training/warnings.h"

namespace finetune {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(200);

absl::Status DivergedError(absl::string_view what,
                           const v1::HyperParameters& hyper_parameters) {
  return absl::OutOfRangeError(absl::StrCat(
      what, " with learning rates ", hyper_parameters.learning_rate(),
      " (features) and ", hyper_parameters.head_learning_rate(),
      " (fc): try a tenth of them"));
}

absl::Status CheckLoss(double loss, const v1::Progress& progress,
                       const v1::HyperParameters& hyper_parameters) {
  if (std::isfinite(loss)) return absl::OkStatus();
  return DivergedError(
      absl::StrCat("the loss is ", loss, " at step ", progress.step(),
                   " of epoch ", progress.epoch()),
      hyper_parameters);
}

absl::StatusOr<ResNet18> InitialNet(const trainer::TrainerSpec& spec,
                                    int64_t classes) {
  torch::manual_seed(spec.hyper_parameters().seed());
  if (spec.hyper_parameters().from_scratch()) return ResNet18(classes);
  ASSIGN_OR_RETURN(StateDict pretrained, ReadStateDict(spec.pretrained()));
  ASSIGN_OR_RETURN(ResNet18 net, WithNewHead(std::move(pretrained), classes));
  const absl::Status finite = CheckFinite(StateDictOf(*net));
  if (finite.ok()) return net;
  return absl::InvalidArgumentError(
      absl::StrCat(spec.pretrained(), ": ", finite.message()));
}

// Whether to wait for the GPU after each step.
std::function<bool()> WhetherToWait(const trainer::TrainerSpec& spec,
                                    const FineTuner::ServingFn& is_serving) {
  switch (spec.step_wait()) {
    case trainer::TrainerSpec::ALWAYS:
      return [] { return true; };
    case trainer::TrainerSpec::NEVER:
      return [] { return false; };
    default:
      return is_serving;
  }
}

absl::Duration CheckpointInterval(const trainer::TrainerSpec& spec) {
  return spec.has_checkpoint_interval() ? FromProto(spec.checkpoint_interval())
                                        : absl::InfiniteDuration();
}

}  // namespace

absl::StatusOr<FineTuner> FineTuner::Create(const trainer::TrainerSpec& spec,
                                            const Dataset& dataset,
                                            const ProgressMeter::ClockFn& clock,
                                            const ServingFn& is_serving) {
  const auto classes = static_cast<int64_t>(dataset.folder.classes.size());
  std::optional<Checkpoints> checkpoints;
  if (!spec.checkpoint_dir().empty()) {
    ASSIGN_OR_RETURN(checkpoints, Checkpoints::Open(spec.checkpoint_dir()));
  }
  const bool resuming = checkpoints.has_value() && !checkpoints->empty();
  ASSIGN_OR_RETURN(ResNet18 net,
                   resuming ? ResNet18(classes) : InitialNet(spec, classes));
  FineTuner tuner(spec, dataset, clock, is_serving, std::move(net));
  tuner.checkpoints_ = std::move(checkpoints);
  if (resuming) {
    RETURN_IF_ERROR(tuner.Resume());
  } else {
    tuner.Warn(DuplicatesWarning(dataset.stats));
  }
  return tuner;
}

FineTuner::FineTuner(const trainer::TrainerSpec& spec, const Dataset& dataset,
                     const ProgressMeter::ClockFn& clock,
                     const ServingFn& is_serving, ResNet18 net)
    : spec_(spec),
      dataset_(&dataset),
      clock_(clock),
      device_(spec.device()),
      net_(std::move(net)),
      sgd_(TwoGroupSgd(*net_, spec.hyper_parameters())),
      pacer_(device_, WhetherToWait(spec, is_serving)),
      meter_({.epochs = spec.hyper_parameters().epochs(),
              .batch_size = spec.hyper_parameters().batch_size(),
              .train_images = dataset.stats.train_images(),
              .test_images = dataset.stats.test_images()},
             clock),
      sums_(device_),
      last_checkpoint_(clock()) {
  // Chooses kernels by trying them, once for each size of batch.
  at::globalContext().setBenchmarkCuDNN(spec.cudnn_benchmark());
  net_->to(device_);
  ToChannelsLast(*net_);
}

absl::Status FineTuner::Resume() {
  ASSIGN_OR_RETURN(
      Checkpoints::Restored restored,
      checkpoints_->Restore(spec_.hyper_parameters(), dataset_->stats.digest(),
                            *net_, sgd_));
  const trainer::CheckpointState& state = restored.state;
  meter_.Restore(state);
  sums_ = Sums(device_, state.loss_sum(), state.correct(), state.images());
  best_ = std::move(restored.best);
  resumed_ = PositionText(state);
  if (!restored.set_aside.empty()) {
    absl::StrAppend(&resumed_, " (damaged, and set aside: ",
                    absl::StrJoin(restored.set_aside, ", "), ")");
  }
  return absl::OkStatus();
}

absl::StatusOr<FineTuner::Result> FineTuner::Run(const ReportFn& report,
                                                 const std::stop_token& stop) {
  if (!resumed_.empty()) report(meter_.progress());
  while (RunningEpoch() <= spec_.hyper_parameters().epochs()) {
    if (meter_.epoch_steps() == 0) meter_.BeginEpoch(RunningEpoch());
    RETURN_IF_ERROR(TrainEpoch(report, stop));
    ASSIGN_OR_RETURN(v1::EpochMetrics metrics, Evaluate(report, stop));
    RETURN_IF_ERROR(EndEpoch(std::move(metrics)));
    report(meter_.progress());
  }
  const v1::Progress& progress = meter_.progress();
  if (progress.best_epoch() == 0) {
    return DivergedError(
        "no epoch ended with finite weights and a finite test loss",
        spec_.hyper_parameters());
  }
  return Result{.best = std::move(best_),
                .test_accuracy =
                    progress.epochs(progress.best_epoch() - 1).test_accuracy()};
}

absl::Status FineTuner::TrainEpoch(const ReportFn& report,
                                   const std::stop_token& stop) {
  net_->train();
  Loader loader =
      TrainLoader(spec_, *dataset_, RunningEpoch(), meter_.epoch_steps(),
                  DeviceBatches::AllocatorFor(device_));
  DeviceBatches batches(loader, device_);
  while (true) {
    const absl::Time asked = clock_();
    ASSIGN_OR_RETURN(const auto batch, batches.Next());
    if (!batch.has_value()) break;
    const absl::Duration data_wait = clock_() - asked;
    RETURN_IF_ERROR(StopOrCheckpoint(stop));

    sgd_.zero_grad();
    const torch::Tensor logits = net_->forward(batch->images);
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(logits, batch->labels);
    loss.backward();
    Step(sgd_);

    sums_.Add(loss, logits, batch->labels);
    pacer_.EndStep();
    // The epoch's last step ends within its time.
    if (meter_.epoch_steps() + 1 == meter_.steps_per_epoch()) pacer_.Finish();
    meter_.TrainStep(batch->labels.size(0), data_wait);
    if (clock_() - last_report_ >= kReportInterval) {
      RETURN_IF_ERROR(ReadTrainingSums());
    }
    ReportSometimes(report);
  }
  return ReadTrainingSums();
}

absl::StatusOr<v1::EpochMetrics> FineTuner::Evaluate(
    const ReportFn& report, const std::stop_token& stop) {
  net_->eval();
  const torch::InferenceMode no_grad;
  Loader loader =
      TestLoader(spec_, *dataset_, DeviceBatches::AllocatorFor(device_));
  DeviceBatches batches(loader, device_);
  Sums sums(device_);
  ConfusionMatrix confusion(dataset_->stats.classes_size(), device_);
  while (true) {
    ASSIGN_OR_RETURN(const auto batch, batches.Next());
    if (!batch.has_value()) break;
    RETURN_IF_ERROR(StopOrCheckpoint(stop));
    const torch::Tensor& labels = batch->labels;
    const torch::Tensor logits = net_->forward(batch->images);
    sums.Add(torch::nn::functional::cross_entropy(logits, labels), logits,
             labels);
    confusion.Add(logits, labels);
    pacer_.EndStep();
    meter_.TestStep(labels.size(0));
    ReportSometimes(report);
  }
  v1::EpochMetrics metrics;
  metrics.set_train_loss(sums_.MeanLoss());
  metrics.set_train_accuracy(sums_.Accuracy());
  metrics.set_test_loss(sums.MeanLoss());
  metrics.set_test_accuracy(sums.Accuracy());
  confusion.Fill(metrics);
  return metrics;
}

absl::Status FineTuner::EndEpoch(v1::EpochMetrics metrics) {
  StateDict weights = StateDictOf(*net_);
  const bool finite =
      std::isfinite(metrics.test_loss()) && CheckFinite(weights).ok();
  if (meter_.EndEpoch(std::move(metrics), finite)) best_ = std::move(weights);
  if (!finite) {
    Warn(absl::StrCat("epoch ", meter_.progress().epoch(),
                      " ended with NaN or infinite numbers: it cannot be the "
                      "best one; try a tenth of the learning rates"));
  }
  sums_ = Sums(device_);
  Warn(OvershootWarning(*meter_.progress().epochs().rbegin(),
                        dataset_->stats.classes_size(),
                        spec_.hyper_parameters()));
  return WriteCheckpoint();
}

// Between two batches. While testing, the position stays at the end of the
// epoch's training, where nothing is lost but the test so far.
absl::Status FineTuner::StopOrCheckpoint(const std::stop_token& stop) {
  const bool stopping = stop.stop_requested();
  const bool due = clock_() - last_checkpoint_ >= CheckpointInterval(spec_);
  if ((stopping || due) && meter_.epoch_steps() > 0) {
    RETURN_IF_ERROR(ReadTrainingSums());
    RETURN_IF_ERROR(WriteCheckpoint());
  }
  return stopping ? absl::CancelledError("training was stopped")
                  : absl::OkStatus();
}

absl::Status FineTuner::WriteCheckpoint() {
  if (!checkpoints_.has_value()) return absl::OkStatus();
  trainer::CheckpointState state;
  *state.mutable_hyper_parameters() = spec_.hyper_parameters();
  state.set_dataset_digest(dataset_->stats.digest());
  meter_.Save(state);
  state.set_loss_sum(sums_.loss());
  state.set_correct(sums_.correct());
  RETURN_IF_ERROR(checkpoints_->Write(*net_, sgd_, best_, std::move(state)));
  last_checkpoint_ = clock_();
  return absl::OkStatus();
}

// Waits for the device.
absl::Status FineTuner::ReadTrainingSums() {
  meter_.SetTraining(sums_.MeanLoss(), sums_.Accuracy());
  return CheckLoss(meter_.progress().train_loss(), meter_.progress(),
                   spec_.hyper_parameters());
}

void FineTuner::Warn(const std::string& warning) {
  if (!warning.empty()) meter_.AddWarning(warning);
}

int FineTuner::RunningEpoch() const {
  return meter_.progress().epochs_size() + 1;
}

void FineTuner::ReportSometimes(const ReportFn& report) {
  const absl::Time now = clock_();
  if (now - last_report_ < kReportInterval) return;
  last_report_ = now;
  report(meter_.progress());
}

void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 256 << 20);
}

}  // namespace finetune
