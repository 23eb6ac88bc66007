#include "server/inference/fused_resnet18.h"

#include <omp.h>

#include <algorithm>
#include <map>
#include <utility>

#include "server/inference/forward_plan.h"

namespace finetune {
namespace {

// Images a thread: more fall out of the caches.
constexpr int kImagesPerThread = 8;

// How many threads OpenMP gives the calling thread's parallel regions, until
// the end of the scope.
class OmpThreads {
 public:
  explicit OmpThreads(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~OmpThreads() { omp_set_num_threads(before_); }
  OmpThreads(const OmpThreads&) = delete;
  OmpThreads& operator=(const OmpThreads&) = delete;

 private:
  const int before_;
};

}  // namespace

class FusedResNet18::Impl {
 public:
  explicit Impl(FoldedResNet18 net) : weights_(std::move(net)) {}

  const ForwardPlan& PlanFor(int batch, int threads) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    std::unique_ptr<ForwardPlan>& plan = plans_[{batch, threads}];
    if (plan == nullptr) {
      plan = std::make_unique<ForwardPlan>(weights_, batch);
      workspace_floats_ = std::max(workspace_floats_, plan->workspace_floats());
    }
    return *plan;
  }

  Workspace TakeWorkspace() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    while (!idle_.empty()) {
      Workspace workspace = std::move(idle_.back());
      idle_.pop_back();
      if (workspace.floats() >= workspace_floats_) return workspace;
      workspaces_floats_ -= workspace.floats();
    }
    workspaces_floats_ += workspace_floats_;
    return Workspace(workspace_floats_);
  }

  void GiveBack(Workspace workspace) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    idle_.push_back(std::move(workspace));
  }

  int64_t classes() const { return weights_.net().fc.out; }

  uint64_t bytes() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return weights_.bytes() + workspaces_floats_ * sizeof(float);
  }

 private:
  mutable Mutex mu_;
  LayerWeights weights_;  // Changed by plans that are made, under `mu_`.
  // By images and threads. A plan never goes.
  std::map<std::pair<int, int>, std::unique_ptr<ForwardPlan>> plans_
      ABSL_GUARDED_BY(mu_);
  size_t workspace_floats_ ABSL_GUARDED_BY(mu_) = 0;  // The largest plan's.
  std::vector<Workspace> idle_ ABSL_GUARDED_BY(mu_);
  size_t workspaces_floats_ ABSL_GUARDED_BY(mu_) = 0;  // Of all that exist.
};

FusedResNet18::FusedResNet18(FoldedResNet18 net)
    : impl_(std::make_unique<Impl>(std::move(net))) {}

FusedResNet18::~FusedResNet18() = default;

void FusedResNet18::Warm(int max_batch, int threads) {
  const OmpThreads omp_threads(threads);
  for (int n = std::min(max_batch, kImagesPerThread * threads); n > 0; --n) {
    impl_->PlanFor(n, threads);
  }
}

std::vector<float> FusedResNet18::Forward(
    absl::Span<const uint8_t* const> inputs, int threads) {
  const OmpThreads omp_threads(threads);
  const size_t classes = impl_->classes();
  const size_t chunk = size_t{kImagesPerThread} * threads;
  std::vector<float> logits(inputs.size() * classes);
  for (size_t i = 0; i < inputs.size(); i += chunk) {
    const auto part = inputs.subspan(i, chunk);
    const ForwardPlan& plan =
        impl_->PlanFor(static_cast<int>(part.size()), threads);
    Workspace workspace = impl_->TakeWorkspace();
    plan.Run(part, workspace, &logits[i * classes]);
    impl_->GiveBack(std::move(workspace));
  }
  return logits;
}

uint64_t FusedResNet18::bytes() const { return impl_->bytes(); }

}  // namespace finetune
