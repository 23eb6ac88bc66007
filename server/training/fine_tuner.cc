#include "server/training/fine_tuner.h"

#include <malloc.h>

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/data/random.h"
#include "server/data/transforms.h"
#include "server/training/param_groups.h"

namespace finetune {
namespace {

constexpr absl::Duration kReportInterval = absl::Milliseconds(200);

// Sums over an epoch, kept on the device: reading them makes the CPU wait.
class Sums {
 public:
  explicit Sums(torch::Device device)
      : loss_(torch::zeros({}, torch::dtype(torch::kFloat64).device(device))),
        correct_(torch::zeros({}, torch::dtype(torch::kInt64).device(device))) {
  }

  // `loss` is the mean over the batch.
  void Add(const torch::Tensor& loss, const torch::Tensor& logits,
           const torch::Tensor& labels) {
    const torch::NoGradGuard no_grad;
    loss_ += loss * labels.size(0);
    correct_ += logits.argmax(1).eq(labels).sum();
    count_ += labels.size(0);
  }

  double Loss() const {
    return loss_.item<double>() / static_cast<double>(count_);
  }
  double Accuracy() const {
    return correct_.item<double>() / static_cast<double>(count_);
  }

 private:
  torch::Tensor loss_, correct_;
  int64_t count_ = 0;
};

Loader::Options LoaderOptions(const trainer::TrainerSpec& spec) {
  return {.batch_size = spec.hyper_parameters().batch_size(),
          .threads = spec.decode_threads(),
          .floats_per_sample = kInputFloats};
}

DecodeLimits Limits(const trainer::TrainerSpec& spec) {
  return {.max_pixels = spec.max_image_pixels()};
}

// Order and augmentation follow from (seed, epoch) and (seed, epoch, sample).
Loader TrainLoader(const trainer::TrainerSpec& spec, const Dataset& dataset,
                   uint64_t epoch) {
  constexpr uint64_t kOrderStream = UINT64_MAX;  // No sample has this index.
  const uint64_t seed = spec.hyper_parameters().seed();
  const std::vector<Sample>& samples = dataset.folder.train;
  return Loader(LoaderOptions(spec),
                RandomOrder(samples.size(), Random(seed, epoch, kOrderStream)),
                [&samples, limits = Limits(spec), seed, epoch](
                    size_t i, float* image, int64_t* label) -> absl::Status {
                  ASSIGN_OR_RETURN(const RgbImage rgb,
                                   ReadImage(samples[i].path, limits));
                  TrainTransform(rgb, Random(seed, epoch, i), image);
                  *label = samples[i].label;
                  return absl::OkStatus();
                });
}

Loader TestLoader(const trainer::TrainerSpec& spec, const Dataset& dataset) {
  const std::vector<Sample>& samples = dataset.folder.test;
  std::vector<size_t> in_order(samples.size());
  std::iota(in_order.begin(), in_order.end(), size_t{0});
  return Loader(LoaderOptions(spec), std::move(in_order),
                [&samples, limits = Limits(spec)](
                    size_t i, float* image, int64_t* label) -> absl::Status {
                  ASSIGN_OR_RETURN(const RgbImage rgb,
                                   ReadImage(samples[i].path, limits));
                  TestTransform(rgb, image);
                  *label = samples[i].label;
                  return absl::OkStatus();
                });
}

absl::Status CheckFinite(double loss, const v1::Progress& progress,
                         const v1::HyperParameters& hyper_parameters) {
  if (std::isfinite(loss)) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat(
      "the loss is ", loss, " at step ", progress.step(), " of epoch ",
      progress.epoch(), " with learning rates ",
      hyper_parameters.learning_rate(), " (features) and ",
      hyper_parameters.head_learning_rate(), " (fc): try a tenth of them"));
}

absl::Status CheckStop(const std::stop_token& stop) {
  return stop.stop_requested() ? absl::CancelledError("training was stopped")
                               : absl::OkStatus();
}

}  // namespace

absl::StatusOr<FineTuner> FineTuner::Create(const trainer::TrainerSpec& spec,
                                            const Dataset& dataset) {
  torch::manual_seed(spec.hyper_parameters().seed());
  const auto classes = static_cast<int64_t>(dataset.folder.classes.size());
  if (spec.hyper_parameters().from_scratch()) {
    return FineTuner(spec, dataset, ResNet18(classes));
  }
  ASSIGN_OR_RETURN(StateDict pretrained, ReadStateDict(spec.pretrained()));
  ASSIGN_OR_RETURN(ResNet18 net, WithNewHead(std::move(pretrained), classes));
  return FineTuner(spec, dataset, std::move(net));
}

FineTuner::FineTuner(const trainer::TrainerSpec& spec, const Dataset& dataset,
                     ResNet18 net)
    : spec_(spec),
      dataset_(&dataset),
      device_(spec.device()),
      net_(std::move(net)),
      sgd_(TwoGroupSgd(*net_, spec.hyper_parameters())),
      meter_({.epochs = spec.hyper_parameters().epochs(),
              .batch_size = spec.hyper_parameters().batch_size(),
              .train_images = dataset.stats.train_images(),
              .test_images = dataset.stats.test_images()}) {
  net_->to(device_);
  ToChannelsLast(*net_);
}

absl::StatusOr<FineTuner::Result> FineTuner::Run(const ReportFn& report,
                                                 const std::stop_token& stop) {
  Result result;
  for (int epoch = 1; epoch <= spec_.hyper_parameters().epochs(); ++epoch) {
    meter_.BeginEpoch(epoch);
    RETURN_IF_ERROR(TrainEpoch(epoch, report, stop));
    ASSIGN_OR_RETURN(v1::EpochMetrics metrics, Evaluate(report, stop));
    metrics.set_train_loss(meter_.progress().train_loss());
    metrics.set_train_accuracy(meter_.progress().train_accuracy());
    if (meter_.EndEpoch(metrics)) {
      result.best = StateDictOf(*net_);
      result.test_accuracy = metrics.test_accuracy();
    }
    report(meter_.progress());
  }
  return result;
}

absl::Status FineTuner::TrainEpoch(int epoch, const ReportFn& report,
                                   const std::stop_token& stop) {
  net_->train();
  Loader batches = TrainLoader(spec_, *dataset_, epoch);
  Sums sums(device_);
  while (true) {
    const absl::Time asked = absl::Now();
    ASSIGN_OR_RETURN(const Batch* batch, batches.Next());
    if (batch == nullptr) break;
    RETURN_IF_ERROR(CheckStop(stop));
    const absl::Duration data_wait = absl::Now() - asked;
    const torch::Tensor labels = LabelsOf(*batch);

    sgd_.zero_grad();
    const torch::Tensor logits = net_->forward(ImagesOf(*batch));
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(logits, labels);
    loss.backward();
    sgd_.step();

    sums.Add(loss, logits, labels);
    meter_.TrainStep(labels.size(0), data_wait);
    if (absl::Now() - last_report_ >= kReportInterval) {
      meter_.SetTraining(sums.Loss(), sums.Accuracy());
      RETURN_IF_ERROR(CheckFinite(sums.Loss(), meter_.progress(),
                                  spec_.hyper_parameters()));
    }
    ReportSometimes(report);
  }
  meter_.SetTraining(sums.Loss(), sums.Accuracy());
  return CheckFinite(sums.Loss(), meter_.progress(), spec_.hyper_parameters());
}

absl::StatusOr<v1::EpochMetrics> FineTuner::Evaluate(
    const ReportFn& report, const std::stop_token& stop) {
  net_->eval();
  const torch::InferenceMode no_grad;
  Loader batches = TestLoader(spec_, *dataset_);
  Sums sums(device_);
  while (true) {
    ASSIGN_OR_RETURN(const Batch* batch, batches.Next());
    if (batch == nullptr) break;
    RETURN_IF_ERROR(CheckStop(stop));
    const torch::Tensor labels = LabelsOf(*batch);
    const torch::Tensor logits = net_->forward(ImagesOf(*batch));
    sums.Add(torch::nn::functional::cross_entropy(logits, labels), logits,
             labels);
    meter_.TestStep(labels.size(0));
    ReportSometimes(report);
  }
  v1::EpochMetrics metrics;
  metrics.set_test_loss(sums.Loss());
  metrics.set_test_accuracy(sums.Accuracy());
  return metrics;
}

// The batch's own memory, as a channels-last tensor; a copy only on a GPU.
torch::Tensor FineTuner::ImagesOf(const Batch& batch) const {
  constexpr int64_t kSide = kInputSize, kFloats = kInputFloats;
  return torch::from_blob(batch.images.get(),
                          {static_cast<int64_t>(batch.size), 3, kSide, kSide},
                          {kFloats, 1, 3 * kSide, 3}, torch::kFloat32)
      .to(device_);
}

torch::Tensor FineTuner::LabelsOf(const Batch& batch) const {
  return torch::from_blob(const_cast<int64_t*>(batch.labels.data()),
                          {static_cast<int64_t>(batch.size)}, torch::kInt64)
      .to(device_);
}

void FineTuner::ReportSometimes(const ReportFn& report) {
  if (absl::Now() - last_report_ < kReportInterval) return;
  last_report_ = absl::Now();
  report(meter_.progress());
}

void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 256 << 20);
}

}  // namespace finetune
