#include "server/metrics/metrics.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <exception>
#include <sstream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "common/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "server/metrics/collected.h"

namespace finetune {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Histogram;
using prometheus::Registry;

// From a refusal to a client's usual deadline.
const Histogram::BucketBoundaries kSeconds = {
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
    0.2,    0.5,   1,     2,     5,    10,   30,   60};
const Histogram::BucketBoundaries kImages = {1,  2,  4,   8,   16,
                                             32, 64, 128, 256, 512};

Histogram& MakeHistogram(Registry& registry, const char* name, const char* help,
                         const Histogram::BucketBoundaries& buckets) {
  return BuildHistogram().Name(name).Help(help).Register(registry).Add({},
                                                                       buckets);
}

}  // namespace

// The exposer's HTTP server gives its threads stacks of 100 KB. Thread-local
// variables of all libraries are taken from a stack, and CUDA's need 200 KB: no
// thread would start. The program's definition stands before the C library's.
extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes,
                                         size_t bytes) noexcept {
  constexpr size_t kLeast = 1 << 20;
  static const auto next =
      reinterpret_cast<decltype(&pthread_attr_setstacksize)>(
          dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return next(attributes, std::max(bytes, kLeast));
}

struct Metrics::Series {
  explicit Series(MetricSources sources)
      : collected(std::make_shared<CollectedMetrics>(std::move(sources))) {}

  // What one method's calls are counted in.
  struct Method {
    Histogram* seconds = nullptr;
    std::map<std::string, Counter*, std::less<>> by_code;
  };

  const std::shared_ptr<Registry> registry = std::make_shared<Registry>();
  const std::shared_ptr<CollectedMetrics> collected;
  Family<Counter>& requests =
      BuildCounter()
          .Name("finetune_requests_total")
          .Help("Calls that have ended, by method and status code.")
          .Register(*registry);
  Family<Histogram>& request_seconds =
      BuildHistogram()
          .Name("finetune_request_seconds")
          .Help("Time from a call's arrival to its status.")
          .Register(*registry);
  Mutex mu;
  // Found without building a label map for every call.
  std::map<std::string, Method, std::less<>> methods ABSL_GUARDED_BY(mu);
  Histogram& queue = MakeHistogram(
      *registry, "finetune_classify_queue_seconds",
      "Time that a request's images waited for the device.", kSeconds);
  Histogram& preprocess = MakeHistogram(
      *registry, "finetune_classify_preprocess_seconds",
      "Time to decode and transform the images of a request's batch.",
      kSeconds);
  Histogram& compute =
      MakeHistogram(*registry, "finetune_classify_compute_seconds",
                    "Time of the forward pass of a request's batch.", kSeconds);
  Histogram& total = MakeHistogram(
      *registry, "finetune_classify_total_seconds",
      "Time from a classification's acceptance to its answer.", kSeconds);
  Histogram& batch =
      MakeHistogram(*registry, "finetune_classify_batch_images",
                    "Images that shared a forward pass.", kImages);
  Counter& promotions =
      BuildCounter()
          .Name("finetune_model_promotions_total")
          .Help("Versions that have become what their name stands for.")
          .Register(*registry)
          .Add({});
  std::unique_ptr<prometheus::Exposer> exposer;  // Last: goes first.
};

Metrics::Metrics(const BuildInfo& build, MetricSources sources)
    : series_(std::make_unique<Series>(std::move(sources))) {
  prometheus::BuildGauge()
      .Name("finetune_build_info")
      .Help("Always 1; what runs is in the labels.")
      .Register(*series_->registry)
      .Add({{"version", build.version},
            {"libtorch", build.libtorch},
            {"device", build.device}})
      .Set(1);
}

Metrics::~Metrics() = default;

absl::StatusOr<std::string> Metrics::Expose(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == 0 || colon == std::string::npos || colon + 1 == address.size() ||
      address.find_first_not_of("0123456789", colon + 1) != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics_address must be HOST:PORT, not ", address));
  }
  try {
    // A scrape takes milliseconds; whoever is slower must not keep a thread.
    series_->exposer =
        std::make_unique<prometheus::Exposer>(std::vector<std::string>{
            "listening_ports", address, "num_threads", "2",
            "request_timeout_ms", "5000", "enable_keep_alive", "no"});
    series_->exposer->RegisterCollectable(series_->registry);
    series_->exposer->RegisterCollectable(series_->collected);
    const std::vector<int> ports = series_->exposer->GetListeningPorts();
    if (ports.empty()) throw std::exception();
    return absl::StrCat(address.substr(0, colon), ":", ports[0]);
  } catch (const std::exception&) {  // Whose text says nothing.
    series_->exposer.reset();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on --metrics_address ", address));
  }
}

void Metrics::Close() { series_->exposer.reset(); }

void Metrics::CountCall(absl::string_view method, absl::string_view code,
                        absl::Duration elapsed) {
  Counter* calls = nullptr;
  Histogram* seconds = nullptr;
  {
    const MutexLock lock(series_->mu);
    auto of_method = series_->methods.find(method);
    if (of_method == series_->methods.end()) {
      of_method =
          series_->methods.emplace(std::string(method), Series::Method()).first;
      of_method->second.seconds = &series_->request_seconds.Add(
          {{"method", std::string(method)}}, kSeconds);
    }
    auto& by_code = of_method->second.by_code;
    auto of_code = by_code.find(code);
    if (of_code == by_code.end()) {
      of_code =
          by_code
              .emplace(std::string(code),
                       &series_->requests.Add({{"method", std::string(method)},
                                               {"code", std::string(code)}}))
              .first;
    }
    calls = of_code->second;
    seconds = of_method->second.seconds;
  }
  calls->Increment();
  seconds->Observe(absl::ToDoubleSeconds(elapsed));
}

void Metrics::ObserveClassify(const ClassifyTimes& times) {
  series_->queue.Observe(absl::ToDoubleSeconds(times.queue));
  series_->preprocess.Observe(absl::ToDoubleSeconds(times.preprocess));
  series_->compute.Observe(absl::ToDoubleSeconds(times.compute));
  series_->total.Observe(absl::ToDoubleSeconds(times.total));
}

void Metrics::ObserveBatch(int images) { series_->batch.Observe(images); }

void Metrics::CountPromotion() { series_->promotions.Increment(); }

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = series_->registry->Collect();
  for (prometheus::MetricFamily& family : series_->collected->Collect()) {
    families.push_back(std::move(family));
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

}  // namespace finetune
