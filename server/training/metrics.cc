#include "server/training/metrics.h"

#include <vector>

namespace finetune {
namespace {

constexpr int64_t kMaxClassesInMatrix = 100;
constexpr int64_t kMaxClasses = 1000;

// 0 of 0 is 0.
double Share(int64_t part, int64_t whole) {
  return whole == 0 ? 0
                    : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

Sums::Sums(torch::Device device) : Sums(device, 0, 0, 0) {}

Sums::Sums(torch::Device device, double loss, int64_t correct, int64_t images)
    : loss_(
          torch::full({}, loss, torch::dtype(torch::kFloat64).device(device))),
      correct_(
          torch::full({}, correct, torch::dtype(torch::kInt64).device(device))),
      images_(images) {}

void Sums::Add(const torch::Tensor& loss, const torch::Tensor& logits,
               const torch::Tensor& labels) {
  const torch::NoGradGuard no_grad;
  loss_ += loss * labels.size(0);
  correct_ += logits.argmax(1).eq(labels).sum();
  images_ += labels.size(0);
}

ConfusionMatrix::ConfusionMatrix(int64_t classes, torch::Device device)
    : classes_(classes) {
  if (classes > kMaxClasses) return;
  counts_ = torch::zeros({classes * classes},
                         torch::dtype(torch::kInt64).device(device));
}

void ConfusionMatrix::Add(const torch::Tensor& logits,
                          const torch::Tensor& labels) {
  if (classes_ > kMaxClasses) return;
  const torch::NoGradGuard no_grad;
  counts_.scatter_add_(0, labels * classes_ + logits.argmax(1),
                       torch::ones_like(labels));
}

void ConfusionMatrix::Fill(v1::EpochMetrics& metrics) const {
  if (classes_ > kMaxClasses) return;
  const torch::Tensor read = counts_.to(torch::kCPU);
  const int64_t* const counts = read.const_data_ptr<int64_t>();
  if (classes_ <= kMaxClassesInMatrix) {
    metrics.mutable_confusion()->Add(counts, counts + read.numel());
  }
  std::vector<int64_t> of_class(classes_), said_to_be(classes_);
  for (int64_t i = 0; i < read.numel(); ++i) {
    of_class[i / classes_] += counts[i];
    said_to_be[i % classes_] += counts[i];
  }
  for (int64_t k = 0; k < classes_; ++k) {
    const int64_t found = counts[k * classes_ + k];
    v1::ClassMetrics& of_one = *metrics.add_classes();
    of_one.set_precision(Share(found, said_to_be[k]));
    of_one.set_recall(Share(found, of_class[k]));
  }
}

}  // namespace finetune
