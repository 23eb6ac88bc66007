#include "server/metrics/collected.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace finetune {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::vector<ClientMetric::Label>;

// Families in the making.
class Families {
 public:
  void Gauge(const char* name, const char* help, double value,
             const Labels& labels = {}) {
    Add(name, help, MetricType::Gauge, labels).gauge.value = value;
  }
  void Counter(const char* name, const char* help, double value,
               const Labels& labels = {}) {
    Add(name, help, MetricType::Counter, labels).counter.value = value;
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  ClientMetric& Add(const char* name, const char* help, MetricType type,
                    const Labels& labels) {
    MetricFamily* family = nullptr;
    for (MetricFamily& known : families_) {
      if (known.name == name) family = &known;
    }
    if (family == nullptr) {
      family = &families_.emplace_back(MetricFamily{name, help, type, {}});
    }
    ClientMetric& metric = family->metric.emplace_back();
    metric.label = labels;
    return metric;
  }

  std::vector<MetricFamily> families_;
};

void AddQueue(const QueueStats& stats, Families& out) {
  out.Gauge("finetune_classify_waiting_images",
            "Images that wait for their forward pass.",
            static_cast<double>(stats.waiting_images));
  out.Gauge("finetune_classify_max_waiting_images",
            "Images that may wait (--max_queued_images).",
            static_cast<double>(stats.max_waiting_images));
  constexpr char kName[] = "finetune_classify_dropped_total";
  constexpr char kHelp[] =
      "Requests dropped from the queue before they cost a forward pass.";
  out.Counter(kName, kHelp, static_cast<double>(stats.dropped_by_deadline),
              {{"reason", "deadline"}});
  out.Counter(kName, kHelp, static_cast<double>(stats.dropped_by_cancel),
              {{"reason", "cancelled"}});
}

void AddModels(const LoadedModelStats& stats, Families& out) {
  out.Gauge("finetune_models_loaded", "Models in memory.",
            static_cast<double>(stats.loaded));
  out.Gauge("finetune_models_loaded_bytes", "Bytes of the models in memory.",
            static_cast<double>(stats.bytes));
  out.Counter("finetune_model_loads_total", "Models loaded and warmed up.",
              static_cast<double>(stats.loads));
  out.Counter("finetune_model_load_failures_total",
              "Models that could not be loaded.",
              static_cast<double>(stats.load_failures));
  out.Counter("finetune_model_evictions_total",
              "Models put out of memory for others.",
              static_cast<double>(stats.evictions));
  out.Counter("finetune_model_load_seconds_total",
              "Time spent loading and warming up models.",
              absl::ToDoubleSeconds(stats.load_time));
}

// JOB_STATE_RUNNING -> "running".
std::string NameOf(v1::JobState state) {
  return absl::AsciiStrToLower(
      absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

void AddJobs(const std::map<v1::JobState, int64_t>& counts, Families& out) {
  for (int state = v1::JobState_MIN + 1; state <= v1::JobState_MAX; ++state) {
    if (!v1::JobState_IsValid(state)) continue;
    const auto count = counts.find(static_cast<v1::JobState>(state));
    out.Gauge("finetune_jobs", "Jobs on record, by state.",
              count == counts.end() ? 0 : static_cast<double>(count->second),
              {{"state", NameOf(static_cast<v1::JobState>(state))}});
  }
}

void AddTraining(const v1::FineTuneJob& job, Families& out) {
  const Labels labels = {{"job", job.job_id()}};
  const v1::Progress& progress = job.progress();
  const auto of_split = [&](const char* split) {
    return Labels{labels[0], {"split", split}};
  };
  constexpr char kLoss[] = "finetune_training_loss";
  constexpr char kLossHelp[] =
      "Mean cross-entropy: train of this epoch so far, test of the last one.";
  constexpr char kAccuracy[] = "finetune_training_accuracy";
  constexpr char kAccuracyHelp[] =
      "Top-1, 0..1: train of this epoch so far, test of the last one.";
  out.Gauge("finetune_training_images_per_second",
            "Training speed of a running job, this epoch.",
            progress.images_per_second(), labels);
  out.Gauge("finetune_training_data_wait_ratio",
            "Share of the training time spent waiting for data, 0..1.",
            progress.data_wait_fraction(), labels);
  out.Gauge("finetune_training_done_ratio", "Share of the job done, 0..1.",
            progress.fraction_done(), labels);
  out.Gauge("finetune_training_epoch", "The epoch that runs, from 1.",
            progress.epoch(), labels);
  out.Gauge(kLoss, kLossHelp, progress.train_loss(), of_split("train"));
  out.Gauge(kAccuracy, kAccuracyHelp, progress.train_accuracy(),
            of_split("train"));
  if (progress.epochs().empty()) return;
  const v1::EpochMetrics& last = *progress.epochs().rbegin();
  out.Gauge(kLoss, kLossHelp, last.test_loss(), of_split("test"));
  out.Gauge(kAccuracy, kAccuracyHelp, last.test_accuracy(), of_split("test"));
}

void AddStateDisk(const Space& disk, Families& out) {
  out.Gauge("finetune_state_disk_bytes",
            "Size of the file system that holds the state folder.",
            static_cast<double>(disk.total_bytes));
  out.Gauge("finetune_state_disk_free_bytes",
            "Bytes of it that the server may still take.",
            static_cast<double>(disk.free_bytes));
}

void AddMemory(const Space& memory, Families& out) {
  out.Gauge("finetune_memory_limit_bytes",
            "Memory that the server's container may take.",
            static_cast<double>(memory.total_bytes));
  out.Gauge("finetune_memory_used_bytes",
            "Memory that it takes, trainers and all.",
            static_cast<double>(memory.total_bytes - memory.free_bytes));
}

void AddGpuMemory(const Space& memory, Families& out) {
  out.Gauge("finetune_gpu_memory_total_bytes",
            "Memory of the GPU that the server computes on.",
            static_cast<double>(memory.total_bytes));
  out.Gauge("finetune_gpu_memory_free_bytes",
            "Bytes of it that no process has taken, trainers and others "
            "included.",
            static_cast<double>(memory.free_bytes));
}

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) +
         static_cast<double>(time.tv_usec) / 1e6;
}

// Under the names that Prometheus' own client libraries use.
void AddProcess(Families& out) {
  std::ifstream statm("/proc/self/statm");
  double pages = 0, resident_pages = 0;
  statm >> pages >> resident_pages;
  const auto page_size = static_cast<double>(sysconf(_SC_PAGESIZE));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  out.Gauge("process_resident_memory_bytes",
            "Memory of the server's process, without its trainers'.",
            resident_pages * page_size);
  out.Gauge("process_virtual_memory_bytes",
            "Address space of the server's process.", pages * page_size);
  out.Counter("process_cpu_seconds_total",
              "CPU time of the server's process, without its trainers'.",
              Seconds(usage.ru_utime) + Seconds(usage.ru_stime));
}

}  // namespace

std::vector<MetricFamily> CollectedMetrics::Collect() const {
  Families out;
  if (sources_.queue) AddQueue(sources_.queue(), out);
  if (sources_.models) AddModels(sources_.models(), out);
  if (sources_.jobs_by_state) AddJobs(sources_.jobs_by_state(), out);
  if (sources_.running_jobs) {
    for (const v1::FineTuneJob& job : sources_.running_jobs()) {
      AddTraining(job, out);
    }
  }
  if (sources_.dropped_log_lines) {
    out.Counter("finetune_log_lines_dropped_total",
                "Lines that came faster than the log's reader took them.",
                static_cast<double>(sources_.dropped_log_lines()));
  }
  if (sources_.state_disk) {
    if (const auto disk = sources_.state_disk()) AddStateDisk(*disk, out);
  }
  if (sources_.memory) {
    if (const auto memory = sources_.memory()) AddMemory(*memory, out);
  }
  if (sources_.gpu_memory) {
    if (const auto gpu = sources_.gpu_memory()) AddGpuMemory(*gpu, out);
  }
  AddProcess(out);
  return out.Take();
}

}  // namespace finetune
