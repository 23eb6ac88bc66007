#include "server/jobs/job_store.h"

#include <algorithm>
#include <utility>

#include "common/rpc_status.h"

namespace finetune {

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED;
}

void JobStore::Add(v1::FineTuneJob job) {
  auto first = std::make_shared<v1::WatchProgressResponse>();
  first->set_sequence(1);
  *first->mutable_job() = std::move(job);

  const MutexLock lock(mu_);
  jobs_[first->job().job_id()].latest = first;
  if (jobs_.size() > max_jobs_) ForgetOldest();
}

absl::StatusOr<v1::FineTuneJob> JobStore::Get(const std::string& job_id) const {
  const MutexLock lock(mu_);
  const auto it = jobs_.find(job_id);
  if (it == jobs_.end()) return NoSuchResourceError("job", job_id);
  return it->second.latest->job();
}

void JobStore::Update(const std::string& job_id,
                      const std::function<void(v1::FineTuneJob&)>& change) {
  const MutexLock lock(mu_);
  const auto it = jobs_.find(job_id);
  if (it == jobs_.end()) return;
  auto next = std::make_shared<v1::WatchProgressResponse>(*it->second.latest);
  next->set_sequence(next->sequence() + 1);
  change(*next->mutable_job());
  it->second.latest = next;
  for (const auto& [id, watch] : it->second.watches) watch(next);
}

absl::StatusOr<uint64_t> JobStore::Watch(const std::string& job_id,
                                         uint64_t after_sequence,
                                         WatchFn watch) {
  const MutexLock lock(mu_);
  const auto it = jobs_.find(job_id);
  if (it == jobs_.end()) return NoSuchResourceError("job", job_id);
  const Snapshot& latest = it->second.latest;
  if (latest->sequence() > after_sequence ||
      IsTerminal(latest->job().state())) {
    watch(latest);
  }
  const uint64_t id = next_watch_++;
  it->second.watches.emplace(id, std::move(watch));
  return id;
}

void JobStore::Unwatch(const std::string& job_id, uint64_t watch_id) {
  const MutexLock lock(mu_);
  const auto it = jobs_.find(job_id);
  if (it != jobs_.end()) it->second.watches.erase(watch_id);
}

void JobStore::ForgetOldest() {
  const auto oldest =
      std::find_if(jobs_.begin(), jobs_.end(), [](const auto& entry) {
        return IsTerminal(entry.second.latest->job().state());
      });
  if (oldest != jobs_.end()) jobs_.erase(oldest);
}

}  // namespace finetune
