#include "server/inference/model_cache.h"

#include <algorithm>
#include <future>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/rpc_status.h"

namespace finetune {
namespace {

bool IsOf(const v1::Model& model, const v1::ModelRef& ref) {
  return model.ref().name() == ref.name() &&
         model.ref().version() == ref.version();
}

bool AreSame(const v1::Model& a, const v1::Model& b) {
  // A version that was discarded may come again.
  return IsOf(a, b.ref()) && a.weights_sha256() == b.weights_sha256();
}

}  // namespace

ModelCache::ModelCache(uint64_t max_bytes, LoadFn load)
    : max_bytes_(max_bytes),
      load_(std::move(load)),
      loader_([this] { Work(); }) {}

ModelCache::~ModelCache() {
  Shutdown();
  const MutexLock lock(mu_);
  leaving_ = true;
}

void ModelCache::Get(const v1::Model& model, DoneFn done) {
  GetOrWait(model, kMaxWaiting, std::move(done));
}

ModelCache::LoadedServable ModelCache::Load(const v1::Model& model) {
  // Shared, since the loader may still be in set_value when we return.
  const auto answer = std::make_shared<std::promise<LoadedServable>>();
  GetOrWait(model, std::numeric_limits<size_t>::max(),
            [answer](LoadedServable servable) {
              answer->set_value(std::move(servable));
            });
  return answer->get_future().get();
}

void ModelCache::GetOrWait(const v1::Model& model, size_t max_waiting,
                           DoneFn done) {
  LoadedServable answer;
  {
    const MutexLock lock(mu_);
    if (auto found = Find(model); found != nullptr) {
      answer = std::move(found);
    } else if (closing_) {
      answer = ShuttingDownError();
    } else if (waiting_ >= max_waiting) {
      answer = RetryAfter(
          absl::UnavailableError(absl::StrCat(
              waiting_, " calls wait for models to be loaded already")),
          absl::Seconds(1));
    } else {
      LoadOf(model).waiting.push_back(std::move(done));
      ++waiting_;
      return;
    }
  }
  done(std::move(answer));
}

std::shared_ptr<const Servable> ModelCache::Find(const v1::Model& model) {
  const auto it = std::find_if(
      loaded_.begin(), loaded_.end(),
      [&](const auto& servable) { return AreSame(servable->model, model); });
  if (it == loaded_.end()) return nullptr;
  loaded_.splice(loaded_.begin(), loaded_, it);
  return loaded_.front();
}

ModelCache::PendingLoad& ModelCache::LoadOf(const v1::Model& model) {
  const auto it = std::find_if(
      loads_.begin(), loads_.end(),
      [&](const PendingLoad& load) { return AreSame(load.model, model); });
  if (it != loads_.end()) return *it;
  return loads_.emplace_back(PendingLoad{.model = model});
}

void ModelCache::Drop(const v1::ModelRef& ref) {
  Servables dropped;  // Freed without the lock.
  const MutexLock lock(mu_);
  for (PendingLoad& load : loads_) {
    if (IsOf(load.model, ref)) load.keep = false;
  }
  for (auto it = loaded_.begin(); it != loaded_.end();) {
    const auto next = std::next(it);
    if (IsOf((*it)->model, ref)) {
      counts_.bytes -= (*it)->loaded.bytes;
      dropped.splice(dropped.end(), loaded_, it);
    }
    it = next;
  }
}

void ModelCache::Shutdown() {
  const MutexLock lock(mu_);
  closing_ = true;
  mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return closed_; });
}

ModelCache::Stats ModelCache::stats() const {
  const MutexLock lock(mu_);
  Stats stats = counts_;
  stats.models = loaded_.size();
  return stats;
}

void ModelCache::Work() {
  while (true) {
    v1::Model model;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !loads_.empty();
      });
      if (closing_) break;
      model = loads_.front().model;
    }
    RunFirstLoad(model);
  }
  std::deque<PendingLoad> left;
  {
    const MutexLock lock(mu_);
    left.swap(loads_);
    waiting_ = 0;
  }
  for (const PendingLoad& load : left) {
    for (const DoneFn& done : load.waiting) done(ShuttingDownError());
  }
  const MutexLock lock(mu_);
  closed_ = true;
  mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return leaving_; });
}

void ModelCache::RunFirstLoad(const v1::Model& model) {
  const absl::Time start = absl::Now();
  absl::StatusOr<LoadedModel> loaded = load_(model);
  const absl::Duration time = absl::Now() - start;
  LoadedServable servable = nullptr;
  if (loaded.ok()) {
    servable =
        std::make_shared<const Servable>(Servable{model, *std::move(loaded)});
  } else {
    servable = loaded.status();
  }
  PendingLoad ended;
  Servables evicted;
  {
    const MutexLock lock(mu_);
    ended = std::move(loads_.front());
    loads_.pop_front();
    waiting_ -= ended.waiting.size();
    if (servable.ok()) {
      ++counts_.loads;
      counts_.load_time += time;
      counts_.last_load_time = time;
      if (ended.keep) evicted = Keep(*servable);
    } else {
      ++counts_.failed_loads;
    }
  }
  for (const DoneFn& done : ended.waiting) done(servable);
}

ModelCache::Servables ModelCache::Keep(
    std::shared_ptr<const Servable> servable) {
  counts_.bytes += servable->loaded.bytes;
  loaded_.push_front(std::move(servable));
  Servables evicted;
  while (counts_.bytes > max_bytes_ && loaded_.size() > 1) {
    counts_.bytes -= loaded_.back()->loaded.bytes;
    ++counts_.evictions;
    evicted.splice(evicted.end(), loaded_, std::prev(loaded_.end()));
  }
  return evicted;
}

}  // namespace finetune
