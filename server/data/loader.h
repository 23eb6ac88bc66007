// Prepares batches ahead of the one being used, on threads of its own.
//
// The batches are a function of the samples and their order alone: neither the
// number of threads nor their timing changes a bit of them. Memory is bounded
// by `batches_ahead` + 1 batches.

#ifndef SERVER_DATA_LOADER_H_
#define SERVER_DATA_LOADER_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/buffer.h"
#include "common/mutex.h"

namespace finetune {

struct Batch {
  size_t size = 0;              // Samples.
  Buffer images;                // [size][sample_bytes].
  std::vector<int64_t> labels;  // [size].
};

// One consumer: Next and the destructor are for a single thread.
class Loader {
 public:
  struct Options {
    int batch_size = 64;    // Samples, >= 1; the last batch may be smaller.
    int threads = 2;        // >= 1.
    int batches_ahead = 2;  // Prepared and not yet asked for, >= 1.
    size_t sample_bytes = 0;
    AllocateFn allocate = AllocateOnHeap;  // For batches.
  };

  // Writes sample `index` to image[sample_bytes] and its label. Called from
  // several threads at once; must not throw.
  using LoadFn =
      std::function<absl::Status(size_t index, uint8_t* image, int64_t* label)>;

  // `order` lists the indices of the samples, batch after batch.
  Loader(Options options, std::vector<size_t> order, LoadFn load);

  // Stops after the samples that are being loaded.
  ~Loader();

  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch, valid until the next call; nullptr after the last. The
  // error of `load` for the first sample of the batch that failed; final.
  absl::StatusOr<const Batch*> Next() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Slot {
    Batch batch;
    size_t loaded = 0;            // Samples finished, failed ones included.
    size_t failed_at = SIZE_MAX;  // Position in the batch of `error`.
    absl::Status error;
  };

  size_t Batches() const;
  size_t SizeOf(size_t batch) const;
  Slot& SlotOf(size_t batch) { return slots_[batch % slots_.size()]; }
  void Work() ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  const std::vector<size_t> order_;
  const LoadFn load_;

  Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  size_t next_sample_ ABSL_GUARDED_BY(mu_) = 0;  // To be loaded; in order_.
  size_t next_batch_ ABSL_GUARDED_BY(mu_) = 0;   // To be returned.
  size_t released_ ABSL_GUARDED_BY(mu_) = 0;     // Batches given back.

  // A ring. The threads write the samples of a slot without the lock; its
  // counters are guarded by mu_.
  std::vector<Slot> slots_;
  std::vector<std::jthread> workers_;  // Last: join before the rest dies.
};

}  // namespace finetune

#endif  // SERVER_DATA_LOADER_H_
