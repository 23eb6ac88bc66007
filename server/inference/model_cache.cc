#include "server/inference/model_cache.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"

namespace finetune {

absl::StatusOr<std::shared_ptr<const Servable>> ModelCache::Get(
    const v1::Model& model) {
  const MutexLock lock(mu_);
  const auto it =
      std::find_if(loaded_.begin(), loaded_.end(), [&](const auto& servable) {
        return servable->model.ref().name() == model.ref().name() &&
               servable->model.ref().version() == model.ref().version() &&
               // A version that was discarded may come again.
               servable->model.weights_sha256() == model.weights_sha256();
      });
  if (it != loaded_.end()) {
    loaded_.splice(loaded_.begin(), loaded_, it);
    return loaded_.front();
  }
  ASSIGN_OR_RETURN(ClassifyFn classify, load_(model));
  loaded_.push_front(
      std::make_shared<Servable>(Servable{model, std::move(classify)}));
  if (loaded_.size() > capacity_) loaded_.pop_back();
  return loaded_.front();
}

}  // namespace finetune
