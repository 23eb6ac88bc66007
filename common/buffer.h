// Memory for images on their way, from whichever allocator suits where they
// go: copies to a GPU want pages that the driver has pinned.

#ifndef COMMON_BUFFER_H_
#define COMMON_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace finetune {

// Freed with its last holder.
using Buffer = std::shared_ptr<uint8_t[]>;

// Not initialised. Thread-safe. May throw what the allocator throws.
using AllocateFn = std::function<Buffer(size_t bytes)>;

inline Buffer AllocateOnHeap(size_t bytes) {
  return std::make_shared_for_overwrite<uint8_t[]>(bytes);
}

}  // namespace finetune

#endif  // COMMON_BUFFER_H_
