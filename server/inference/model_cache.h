// The models that are in memory.

#ifndef SERVER_INFERENCE_MODEL_CACHE_H_
#define SERVER_INFERENCE_MODEL_CACHE_H_

#include <functional>
#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/inference/servable.h"

namespace finetune {

// Thread-safe. Loads one model at a time: others wait, some 100 ms on a CPU.
class ModelCache {
 public:
  using LoadFn = std::function<absl::StatusOr<ClassifyFn>(const v1::Model&)>;

  // Keeps the `capacity` >= 1 models used last, 45 MB each. `load` must not
  // throw.
  ModelCache(size_t capacity, LoadFn load)
      : capacity_(capacity), load_(std::move(load)) {}

  // The model, loaded if it is not there yet; `load`'s error otherwise.
  absl::StatusOr<std::shared_ptr<const Servable>> Get(const v1::Model& model)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const size_t capacity_;
  const LoadFn load_;
  Mutex mu_;
  std::list<std::shared_ptr<const Servable>> loaded_
      ABSL_GUARDED_BY(mu_);  // The one used last is first.
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_MODEL_CACHE_H_
