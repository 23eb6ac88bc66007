// CUDA graphs over a memory pool that several of them share.
//
// PyTorch's own CUDAGraph leaves the allocator recording when a capture fails;
// this one ends and releases the pool in any case. For GPUs only: needs a
// LibTorch with CUDA.

#ifndef SERVER_INFERENCE_CUDA_GRAPH_H_
#define SERVER_INFERENCE_CUDA_GRAPH_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAStream.h"

namespace finetune {

// Not thread-safe. What was allocated while it was recorded stays its own, and
// that of the other graphs of its pool, which must not run at the same time.
class CudaGraph {
 public:
  // Records what `work` enqueues on `stream`, which must be the current one,
  // and nobody else's. UNKNOWN with the reason if that cannot be recorded;
  // `stream` and the allocator are then as before. Throws nothing of Torch's.
  static absl::StatusOr<std::unique_ptr<CudaGraph>> Record(
      const c10::cuda::CUDAStream& stream, c10::MempoolId_t pool,
      const std::function<void()>& work);

  // Its runs must have ended.
  ~CudaGraph();

  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void Launch(const c10::cuda::CUDAStream& stream) const;

 private:
  CudaGraph(c10::DeviceIndex device, c10::MempoolId_t pool)
      : device_(device), pool_(pool) {}

  const c10::DeviceIndex device_;
  const c10::MempoolId_t pool_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_CUDA_GRAPH_H_
