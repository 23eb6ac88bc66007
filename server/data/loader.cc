#include "server/data/loader.h"

#include <algorithm>
#include <utility>

namespace finetune {

Loader::Loader(Options options, std::vector<size_t> order, LoadFn load)
    : options_(std::move(options)),
      order_(std::move(order)),
      load_(std::move(load)) {
  slots_.resize(std::min<size_t>(options_.batches_ahead + 1,
                                 std::max<size_t>(Batches(), 1)));
  for (size_t i = 0; i < std::min(slots_.size(), Batches()); ++i) {
    slots_[i].batch.images =
        options_.allocate(SizeOf(0) * options_.sample_bytes);
    slots_[i].batch.labels.resize(SizeOf(0));
  }
  for (int i = 0; i < options_.threads; ++i) {
    workers_.emplace_back([this] { Work(); });
  }
}

Loader::~Loader() {
  const MutexLock lock(mu_);
  closing_ = true;
}

absl::StatusOr<const Batch*> Loader::Next() {
  const MutexLock lock(mu_);
  released_ = next_batch_;
  if (next_batch_ == Batches()) return nullptr;
  const size_t size = SizeOf(next_batch_);
  Slot& slot = SlotOf(next_batch_);
  mu_.Await([&] { return slot.loaded == size; });
  if (!slot.error.ok()) return slot.error;
  slot.loaded = 0;
  slot.batch.size = size;
  ++next_batch_;
  return &slot.batch;
}

size_t Loader::Batches() const {
  return (order_.size() + options_.batch_size - 1) / options_.batch_size;
}

size_t Loader::SizeOf(size_t batch) const {
  return std::min<size_t>(options_.batch_size,
                          order_.size() - batch * options_.batch_size);
}

void Loader::Work() {
  while (true) {
    size_t position;
    {
      const MutexLock lock(mu_);
      mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || next_sample_ == order_.size() ||
               next_sample_ / options_.batch_size < released_ + slots_.size();
      });
      if (closing_ || next_sample_ == order_.size()) return;
      position = next_sample_++;
    }
    Slot& slot = SlotOf(position / options_.batch_size);
    const size_t within = position % options_.batch_size;
    absl::Status loaded =
        load_(order_[position],
              slot.batch.images.get() + within * options_.sample_bytes,
              &slot.batch.labels[within]);

    const MutexLock lock(mu_);
    ++slot.loaded;
    if (!loaded.ok() && within < slot.failed_at) {
      slot.failed_at = within;
      slot.error = std::move(loaded);
    }
  }
}

}  // namespace finetune
