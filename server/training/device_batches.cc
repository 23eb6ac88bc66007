#include "server/training/device_batches.h"

#include "ATen/Parallel.h"
#include "c10/core/StreamGuard.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "common/status_macros.h"
#include "server/data/normalize.h"
#include "server/model/device.h"

namespace finetune {
namespace {

// A view of the loader's own memory.
torch::Tensor PixelsOf(const Batch& batch) {
  return torch::from_blob(
      batch.images.get(),
      {static_cast<int64_t>(batch.size), kInputSize, kInputSize, 3},
      torch::kByte);
}

torch::Tensor LabelsOf(const Batch& batch) {
  return torch::from_blob(const_cast<int64_t*>(batch.labels.data()),
                          {static_cast<int64_t>(batch.size)}, torch::kInt64);
}

}  // namespace

AllocateFn DeviceBatches::AllocatorFor(torch::Device device) {
  if (device.is_cuda()) return AllocatePinned;
  return AllocateOnHeap;
}

DeviceBatches::DeviceBatches(Loader& loader, torch::Device device)
    : loader_(loader), device_(device) {
  if (!device_.is_cuda()) return;
  normalize_.emplace(device_);
  copies_ = c10::impl::VirtualGuardImpl(device_.type())
                .getStreamFromGlobalPool(device_);
  copied_.emplace(device_.type());
}

absl::StatusOr<std::optional<DeviceBatches::OnDevice>> DeviceBatches::Next() {
  // The loader then fills the memory of the batch before.
  if (copied_.has_value()) copied_->synchronize();
  ASSIGN_OR_RETURN(const Batch* batch, loader_.Next());
  if (batch == nullptr) return std::nullopt;
  return device_.is_cuda() ? Uploaded(*batch) : Normalized(*batch);
}

// The same bits as Classify's. Memory that is used again has its pages already.
DeviceBatches::OnDevice DeviceBatches::Normalized(const Batch& batch) {
  const auto size = static_cast<int64_t>(batch.size);
  if (!images_.defined() || images_.size(0) < size) {
    images_ = torch::empty({size, 3, kInputSize, kInputSize},
                           at::MemoryFormat::ChannelsLast);
  }
  auto* const floats = images_.mutable_data_ptr<float>();
  at::parallel_for(0, size, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      NormalizeChannelsLast(&batch.images[i * kInputBytes],
                            floats + i * kInputBytes);
    }
  });
  return {.images = images_.narrow(0, 0, size), .labels = LabelsOf(batch)};
}

DeviceBatches::OnDevice DeviceBatches::Uploaded(const Batch& batch) {
  const c10::Stream current =
      c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
  torch::Tensor pixels, labels;
  {
    const c10::StreamGuard on_copies(*copies_);
    // First what is not pinned: that copy waits for what is before it.
    labels = LabelsOf(batch).to(device_, /*non_blocking=*/true);
    pixels = PixelsOf(batch).to(device_, /*non_blocking=*/true);
    copied_->record(*copies_);
  }
  copied_->block(current);
  // Or the next copies could get their memory before the step has read it.
  pixels.record_stream(current);
  labels.record_stream(current);
  return {.images = (*normalize_)(pixels), .labels = labels};
}

}  // namespace finetune
