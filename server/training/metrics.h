// What the images of an epoch add up to. Kept on the device, since each look
// makes the CPU wait for it: read seldom.

#ifndef SERVER_TRAINING_METRICS_H_
#define SERVER_TRAINING_METRICS_H_

#include <cstdint>

#include "finetune/v1/job.pb.h"
#include "torch/torch.h"

namespace finetune {

// Losses and hits. Not thread-safe.
class Sums {
 public:
  explicit Sums(torch::Device device);

  // Goes on from what another one had read. The sum of the losses is a double
  // on both sides: the same additions follow, and give the same bits.
  Sums(torch::Device device, double loss, int64_t correct, int64_t images);

  // `loss` is the mean over the batch.
  void Add(const torch::Tensor& loss, const torch::Tensor& logits,
           const torch::Tensor& labels);

  // These three wait for the device.
  double loss() const { return loss_.item<double>(); }
  int64_t correct() const { return correct_.item<int64_t>(); }
  double MeanLoss() const { return loss() / static_cast<double>(images_); }

  // 0..1. REQUIRES, as MeanLoss: something was added.
  double Accuracy() const {
    return static_cast<double>(correct()) / static_cast<double>(images_);
  }

 private:
  torch::Tensor loss_, correct_;  // float64 and int64, scalars.
  int64_t images_;
};

// Test images by true and predicted class. Counts nothing where there are more
// than 1000 classes. Not thread-safe.
class ConfusionMatrix {
 public:
  ConfusionMatrix(int64_t classes, torch::Device device);

  void Add(const torch::Tensor& logits, const torch::Tensor& labels);

  // Sets `confusion` (up to 100 classes) and `classes` (up to 1000). Waits for
  // the device, once.
  void Fill(v1::EpochMetrics& metrics) const;

 private:
  const int64_t classes_;
  torch::Tensor counts_;  // int64 [classes * classes], row = true class.
};

}  // namespace finetune

#endif  // SERVER_TRAINING_METRICS_H_
