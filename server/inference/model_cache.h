// The models that are in memory: as many as fit in a number of bytes, loaded on
// demand, the one not used for longest given up first.
//
// A model's memory is freed when its last batch ends, so for that long, and
// while the next one loads, there may be more than the limit.

#ifndef SERVER_INFERENCE_MODEL_CACHE_H_
#define SERVER_INFERENCE_MODEL_CACHE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "server/inference/servable.h"

namespace finetune {

// Thread-safe. Loads one model at a time, on a thread of its own: models that
// are in memory do not wait for it.
class ModelCache {
 public:
  // Loads and warms up. Must not throw.
  using LoadFn = std::function<absl::StatusOr<LoadedModel>(const v1::Model&)>;
  using LoadedServable = absl::StatusOr<std::shared_ptr<const Servable>>;
  using DoneFn = std::function<void(LoadedServable)>;

  // Callers of Get that may wait for loads, all models together.
  static constexpr size_t kMaxWaiting = 1024;

  // Since the start where not of now.
  struct Stats {
    size_t models = 0;   // Now.
    uint64_t bytes = 0;  // Now.
    uint64_t loads = 0;  // That succeeded.
    uint64_t failed_loads = 0;
    uint64_t evictions = 0;  // To stay within the limit.
    // Of the loads that succeeded, with their warm-up.
    absl::Duration load_time, last_load_time;
  };

  // Keeps models of `max_bytes` together; a larger one alone.
  ModelCache(uint64_t max_bytes, LoadFn load);

  // As Shutdown.
  ~ModelCache();

  ModelCache(const ModelCache&) = delete;
  ModelCache& operator=(const ModelCache&) = delete;

  // Calls `done` exactly once: before returning if the model is in memory, else
  // on the loader's thread, which it must not block. Those who ask for the same
  // model share a load. Errors are those of the load, after which the next Get
  // tries again, and
  //   UNAVAILABLE and RetryInfo  kMaxWaiting callers wait already, or Shutdown.
  void Get(const v1::Model& model, DoneFn done) ABSL_LOCKS_EXCLUDED(mu_);

  // The same, but waits, whoever waits already. Not for the loader's thread.
  LoadedServable Load(const v1::Model& model) ABSL_LOCKS_EXCLUDED(mu_);

  // Forgets a version, also one that is being loaded.
  void Drop(const v1::ModelRef& ref) ABSL_LOCKS_EXCLUDED(mu_);

  // Loads nothing more: ends the load that runs and answers all who wait.
  // Idempotent. The loader's thread stays until this is destroyed: cuDNN's
  // plans belong to the thread that made them, and models still answer.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mu_);

  Stats stats() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct PendingLoad {
    v1::Model model;
    std::vector<DoneFn> waiting;
    bool keep = true;  // Not dropped since.
  };
  using Servables = std::list<std::shared_ptr<const Servable>>;

  void GetOrWait(const v1::Model& model, size_t max_waiting, DoneFn done)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Null if it is not in memory.
  std::shared_ptr<const Servable> Find(const v1::Model& model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The load of `model`, which many may wait for.
  PendingLoad& LoadOf(const v1::Model& model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // What the loader does.
  void Work() ABSL_LOCKS_EXCLUDED(mu_);
  void RunFirstLoad(const v1::Model& model) ABSL_LOCKS_EXCLUDED(mu_);
  // Adds a model; returns those that have to go, to be freed without the lock.
  Servables Keep(std::shared_ptr<const Servable> servable)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const uint64_t max_bytes_;
  const LoadFn load_;
  mutable Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;  // Shutdown was called,
  bool closed_ ABSL_GUARDED_BY(mu_) = false;   // the loader has done its part,
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;  // and is to end.
  Servables loaded_ ABSL_GUARDED_BY(mu_);      // The one used last is first.
  // The first is being loaded.
  std::deque<PendingLoad> loads_ ABSL_GUARDED_BY(mu_);
  size_t waiting_ ABSL_GUARDED_BY(mu_) = 0;  // In all of loads_.
  Stats counts_ ABSL_GUARDED_BY(mu_);        // Without `models`.
  std::jthread loader_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_MODEL_CACHE_H_
