#include "server/inference/batch_queue.h"

#include <algorithm>
#include <utility>

namespace finetune {

bool BatchQueue::HasRoom(const Servable* model, size_t images) const {
  if (waiting_ + images > limits_.max_waiting) return false;
  const auto lane = lanes_.find(model);
  if (lane == lanes_.end()) return true;
  const size_t own = lane->second.waiting();
  const size_t left_by_others = limits_.max_waiting - (waiting_ - own);
  return own + images <= left_by_others - left_by_others / 8;
}

size_t BatchQueue::CountUntilAnswered(const Servable* model,
                                      size_t images) const {
  const auto lane = lanes_.find(model);
  const bool is_new = lane == lanes_.end();
  const size_t own = images + (is_new ? 0 : lane->second.waiting());
  const size_t models = lanes_.size() + (is_new ? 1 : 0);
  return computing_ + std::min(waiting_ + images, own * models);
}

void BatchQueue::Add(const std::shared_ptr<PendingClassify>& request) {
  Lane& lane = lanes_[request->work.servable.get()];
  const size_t images = request->work.images.size();
  for (size_t i = 0; i < images; ++i) {
    lane.encoded.push_back({.request = request, .index = i});
  }
  waiting_ += images;
}

bool BatchQueue::MayDecode(const Lane& lane) const {
  if (lane.encoded.empty()) return false;
  return decoding_ + ready_ < limits_.max_decoded ||
         lane.decoding + lane.ready.size() == 0;
}

bool BatchQueue::CanDecode() const {
  return std::any_of(lanes_.begin(), lanes_.end(), [this](const auto& lane) {
    return MayDecode(lane.second);
  });
}

bool BatchQueue::HasLoneEncoded() const {
  return waiting_ == 1 && computing_ == 0 && HasEncoded() &&
         limits_.workers > 1;
}

bool BatchQueue::HasEncoded() const { return waiting_ > decoding_ + ready_; }

BatchItem BatchQueue::TakeEncoded() {
  const auto lane = NextInTurn(
      last_decoded_, [this](const Lane& lane) { return MayDecode(lane); });
  last_decoded_ = lane->first;
  BatchItem item = std::move(lane->second.encoded.front());
  lane->second.encoded.pop_front();
  ++lane->second.decoding;
  ++decoding_;
  return item;
}

void BatchQueue::AddReady(BatchItem item) {
  Lane& lane = lanes_[item.model()];
  --lane.decoding;
  --decoding_;
  lane.ready.push_back(std::move(item));
  ++ready_;
}

void BatchQueue::EndDecode(const BatchItem& item) {
  const auto lane = lanes_.find(item.model());
  --lane->second.decoding;
  --decoding_;
  --waiting_;
  EraseIfEmpty(lane);
}

size_t BatchQueue::Share() const {
  const size_t all = waiting_ + computing_;
  return std::min(limits_.max_batch,
                  (all + limits_.workers - 1) / limits_.workers);
}

absl::Time BatchQueue::StartOf(const Lane& lane, absl::Time idle_since) const {
  if (lane.ready.empty()) return absl::InfiniteFuture();
  const bool is_all = lane.encoded.empty() && lane.decoding == 0;
  if (is_all || lane.ready.size() >= Share()) return absl::InfinitePast();
  return std::max(lane.ready.front().ready, idle_since) + limits_.max_delay;
}

absl::Time BatchQueue::NextStart(absl::Time idle_since) const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [model, lane] : lanes_) {
    next = std::min(next, StartOf(lane, idle_since));
  }
  return next;
}

BatchQueue::Batch BatchQueue::TakeBatch(absl::Time now, absl::Time idle_since) {
  Batch batch;
  const auto lane = NextInTurn(last_computed_, [&](const Lane& lane) {
    return StartOf(lane, idle_since) <= now;
  });
  if (lane == lanes_.end()) return batch;
  last_computed_ = lane->first;
  const size_t share = Share();
  std::deque<BatchItem>& ready = lane->second.ready;
  while (!ready.empty() && batch.items.size() < share) {
    const bool wanted = ready.front().request->IsWanted(now);
    (wanted ? batch.items : batch.dropped).push_back(std::move(ready.front()));
    ready.pop_front();
  }
  const size_t taken = batch.items.size() + batch.dropped.size();
  ready_ -= taken;
  waiting_ -= taken;
  computing_ += batch.items.size();
  EraseIfEmpty(lane);
  return batch;
}

std::vector<BatchItem> BatchQueue::RemoveUnwanted(absl::Time now) {
  return RemoveIf(
      [now](const BatchItem& item) { return !item.request->IsWanted(now); });
}

std::vector<BatchItem> BatchQueue::RemoveAll() {
  return RemoveIf([](const BatchItem&) { return true; });
}

// The first lane of `condition` after the one of `last`, around in a circle;
// the end if there is none.
template <typename Condition>
BatchQueue::Lanes::iterator BatchQueue::NextInTurn(const Servable* last,
                                                   Condition condition) {
  const auto holds = [&](const auto& lane) { return condition(lane.second); };
  const auto after = lanes_.upper_bound(last);
  const auto found = std::find_if(after, lanes_.end(), holds);
  if (found != lanes_.end()) return found;
  const auto wrapped = std::find_if(lanes_.begin(), after, holds);
  return wrapped == after ? lanes_.end() : wrapped;
}

template <typename Condition>
std::vector<BatchItem> BatchQueue::RemoveIf(Condition condition) {
  std::vector<BatchItem> removed;
  const auto remove_from = [&](std::deque<BatchItem>& items) {
    const auto kept_end = std::stable_partition(
        items.begin(), items.end(),
        [&](const BatchItem& item) { return !condition(item); });
    std::move(kept_end, items.end(), std::back_inserter(removed));
    items.erase(kept_end, items.end());
  };
  for (auto lane = lanes_.begin(); lane != lanes_.end();) {
    const auto next = std::next(lane);
    remove_from(lane->second.encoded);
    const size_t ready = lane->second.ready.size();
    remove_from(lane->second.ready);
    ready_ -= ready - lane->second.ready.size();
    EraseIfEmpty(lane);
    lane = next;
  }
  waiting_ -= removed.size();
  return removed;
}

void BatchQueue::EraseIfEmpty(Lanes::iterator lane) {
  if (lane->second.waiting() == 0) lanes_.erase(lane);
}

}  // namespace finetune
