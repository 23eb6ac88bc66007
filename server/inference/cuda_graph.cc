#include "server/inference/cuda_graph.h"

#include <exception>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "c10/cuda/CUDAException.h"

namespace finetune {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

std::string ErrorOf(const std::function<void()>& work) try {
  work();
  return "";
} catch (const c10::Error& e) {
  return e.what_without_backtrace();
} catch (const std::exception& e) {
  return e.what();
}

// Why the last call failed; makes it forgotten.
absl::Status CudaError(absl::string_view what, cudaError_t error) {
  (void)cudaGetLastError();
  return absl::UnknownError(
      absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaGraph>> CudaGraph::Record(
    const c10::cuda::CUDAStream& stream, c10::MempoolId_t pool,
    const std::function<void()>& work) {
  const cudaStream_t raw = stream.stream();
  allocator::beginAllocateToPool(
      stream.device_index(), pool,
      [raw](cudaStream_t allocating) { return allocating == raw; });
  // Holds the pool from here on.
  std::unique_ptr<CudaGraph> graph(new CudaGraph(stream.device_index(), pool));
  // Thread-local, or a call of another thread's, a scrape's say, would spoil
  // it.
  cudaError_t error =
      cudaStreamBeginCapture(raw, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) {
    allocator::endAllocateToPool(stream.device_index(), pool);
    return CudaError("begin capture", error);
  }
  const std::string failure = ErrorOf(work);
  cudaGraph_t recorded = nullptr;
  error = cudaStreamEndCapture(raw, &recorded);
  allocator::endAllocateToPool(stream.device_index(), pool);
  const absl::Cleanup destroy = [&] {
    if (recorded != nullptr) cudaGraphDestroy(recorded);
  };
  if (!failure.empty()) {
    (void)cudaGetLastError();
    return absl::UnknownError(failure);
  }
  if (error != cudaSuccess) return CudaError("end capture", error);
  error = cudaGraphInstantiate(&graph->executable_, recorded, /*flags=*/0);
  if (error != cudaSuccess) return CudaError("instantiate", error);
  return graph;
}

CudaGraph::~CudaGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  allocator::releasePool(device_, pool_);
}

void CudaGraph::Launch(const c10::cuda::CUDAStream& stream) const {
  C10_CUDA_CHECK(cudaGraphLaunch(executable_, stream.stream()));
}

}  // namespace finetune
