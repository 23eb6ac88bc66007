#include "server/inference/throughput.h"

#include <algorithm>
#include <cmath>

namespace finetune {
namespace {

constexpr double kMemorySeconds = 2;
constexpr double kEnoughSeconds = 1;
constexpr absl::Duration kStale = absl::Seconds(10);

}  // namespace

void Throughput::Add(size_t images, bool more, absl::Time now) {
  if (busy_) {
    const double passed = std::max(0.0, absl::ToDoubleSeconds(now - last_));
    const double kept = std::exp(-passed / kMemorySeconds);
    seconds_ = seconds_ * kept + passed;
    images_ = images_ * kept + static_cast<double>(images);
  }
  last_ = std::max(last_, now);
  busy_ = more;
}

std::optional<double> Throughput::Rate(absl::Time now) const {
  if (seconds_ < kEnoughSeconds || now - last_ > kStale) return std::nullopt;
  return images_ / seconds_;
}

}  // namespace finetune
