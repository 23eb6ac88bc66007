// Values that are asked for at each scrape, as Prometheus' families. For
// metrics.cc alone.

#ifndef SERVER_METRICS_COLLECTED_H_
#define SERVER_METRICS_COLLECTED_H_

#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/metrics/metrics.h"

namespace finetune {

// Thread-safe if the sources are.
class CollectedMetrics final : public prometheus::Collectable {
 public:
  explicit CollectedMetrics(MetricSources sources)
      : sources_(std::move(sources)) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const MetricSources sources_;
};

}  // namespace finetune

#endif  // SERVER_METRICS_COLLECTED_H_
