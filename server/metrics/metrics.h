// What the server counts and measures, for Prometheus.
//
// Two kinds: events, which the rooms report as they happen by the methods
// below, and values that live elsewhere (queue depth, jobs, memory), which are
// asked for when somebody scrapes, by the functions in MetricSources. All
// names begin with finetune_, but the process's own.
//
// The number of time series is bounded: labels are methods of the contract,
// status codes, job states, and ids of the jobs that run.

#ifndef SERVER_METRICS_METRICS_H_
#define SERVER_METRICS_METRICS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "finetune/v1/job.pb.h"
#include "server/metrics/space.h"

namespace finetune {

struct QueueStats {
  int64_t waiting_images = 0;
  int64_t max_waiting_images = 0;   // --max_queued_images.
  int64_t dropped_by_deadline = 0;  // Requests, since the start.
  int64_t dropped_by_cancel = 0;
};

struct LoadedModelStats {
  int64_t loaded = 0;                                   // Models in memory now.
  int64_t bytes = 0;                                    // Of their weights.
  int64_t loads = 0, load_failures = 0, evictions = 0;  // Since the start.
  absl::Duration load_time;  // Of all loads, warm-up included.
};

// Each is called at every scrape, on a thread of the exposer's, and must not
// block for long. One that is empty leaves its metrics out.
struct MetricSources {
  std::function<QueueStats()> queue;
  std::function<LoadedModelStats()> models;
  std::function<std::map<v1::JobState, int64_t>()> jobs_by_state;
  std::function<std::vector<v1::FineTuneJob>()> running_jobs;
  std::function<uint64_t()> dropped_log_lines;
  // What has nothing to tell leaves its metrics out, too.
  std::function<std::optional<Space>()> state_disk, memory, gpu_memory;
};

// Labels of finetune_build_info.
struct BuildInfo {
  std::string version, libtorch, device;
};

// How long the stages of one classification took.
struct ClassifyTimes {
  absl::Duration queue, preprocess, compute, total;
};

// Thread-safe. A method costs less than a microsecond, about.
class Metrics {
 public:
  Metrics(const BuildInfo& build, MetricSources sources);
  ~Metrics();

  // Answers HTTP GET /metrics on `address`, HOST:PORT; port 0 takes a free
  // one. Returns the address with the port that was taken. A client that is
  // slow is cut off after seconds, and few are served at once.
  //
  // INVALID_ARGUMENT if it is no HOST:PORT, UNAVAILABLE if it cannot be bound.
  absl::StatusOr<std::string> Expose(const std::string& address);

  // Ends that. No source is called any more when this returns, so that the
  // rooms behind them may go. Idempotent.
  void Close();

  // A call has ended. `method` is "package.Service/Method", of a bounded set;
  // `code` is a status code's name.
  void CountCall(absl::string_view method, absl::string_view code,
                 absl::Duration elapsed);

  // A request's images have been answered.
  void ObserveClassify(const ClassifyTimes& times);

  // A forward pass over so many images has been run.
  void ObserveBatch(int images);

  // A version has become what its name stands for.
  void CountPromotion();

  // What a scrape returns: Prometheus' text format.
  std::string Text() const;

 private:
  struct Series;  // So that no other header knows of prometheus-cpp.
  const std::unique_ptr<Series> series_;
};

}  // namespace finetune

#endif  // SERVER_METRICS_METRICS_H_
