#include "server/training/warnings.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace finetune {

std::string OvershootWarning(const v1::EpochMetrics& epoch, int64_t classes,
                             const v1::HyperParameters& hyper_parameters) {
  const double limit = 3 * std::log(static_cast<double>(classes));
  if (epoch.train_loss() <= limit) return "";
  const double rate = hyper_parameters.learning_rate();
  const double head_rate = hyper_parameters.head_learning_rate();
  return absl::StrFormat(
      "epoch %d overshoots: its mean training loss is %.3g, over 3 x ln(%d) = "
      "%.3g, with learning rates %g (features) and %g (fc); if the test "
      "accuracy stays low, try a tenth of them, %g and %g (\"Overshoot\" in "
      "the README)",
      epoch.epoch(), epoch.train_loss(), classes, limit, rate, head_rate,
      rate / 10, head_rate / 10);
}

std::string DuplicatesWarning(const v1::DatasetStats& stats) {
  if (stats.duplicate_images() == 0) return "";
  const v1::DuplicateImage& example = stats.duplicates(0);
  return absl::StrCat(
      stats.duplicate_images(), " of ", stats.test_images(),
      " test images are also in train/, byte for byte, such as ",
      example.test_path(), " (", example.train_path(),
      "): the test accuracy looks better than it is; remove them from one of "
      "the two");
}

}  // namespace finetune
