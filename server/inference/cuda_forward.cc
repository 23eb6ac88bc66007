#include "server/inference/cuda_forward.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "server/data/transforms.h"
#include "torch/torch.h"
#ifdef FINETUNE_WITH_CUDA
#include "ATen/cuda/CUDAGraph.h"
#include "c10/cuda/CUDAGuard.h"
#include "c10/cuda/CUDAStream.h"
#endif

namespace finetune {
namespace {

torch::Dtype TypeOf(const std::string& precision) {
  if (precision == "fp16") return torch::kHalf;
  if (precision == "bf16") return torch::kBFloat16;
  return torch::kFloat;
}

int64_t PowerOfTwoFrom(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

class CudaForward {
 public:
  CudaForward(ResNet18 net, const PredictorOptions& options)
      : net_(std::move(net)),
        device_(options.device),
        type_(TypeOf(options.precision)) {
    // Else convolutions round their inputs to 10 bits (TF32).
    at::globalContext().setAllowTF32CuDNN(false);
#ifdef FINETUNE_WITH_CUDA
    stream_ = c10::cuda::getStreamFromPool(false, device_.index());
    const c10::cuda::CUDAStreamGuard on_stream(*stream_);
#endif
    net_->to(device_, type_);
    ToChannelsLast(*net_);
    const int64_t largest = PowerOfTwoFrom(options.max_batch);
    for (int64_t size = 1; size <= largest; size *= 2) Prepare(size);
  }

  std::vector<Probabilities> Run(absl::Span<const float* const> inputs)
      ABSL_LOCKS_EXCLUDED(mu_);

  uint64_t bytes() const;

 private:
  // Memory that stays where it is, since a graph knows only addresses.
  struct Batch {
    torch::Tensor host_in, in, out, host_out;
#ifdef FINETUNE_WITH_CUDA
    std::unique_ptr<at::cuda::CUDAGraph> graph;
#endif
  };

  void Prepare(int64_t size);
  void Compute(Batch& batch) {
    batch.out = net_->forward(batch.in.to(type_)).to(torch::kFloat).softmax(1);
  }
  void Launch(Batch& batch);

  ResNet18 net_;
  const torch::Device device_;
  const torch::Dtype type_;
  Mutex mu_;
  std::map<int64_t, Batch> batches_;  // By size; used under `mu_`.
#ifdef FINETUNE_WITH_CUDA
  std::optional<c10::cuda::CUDAStream> stream_;
#endif
};

void CudaForward::Prepare(int64_t size) {
  const c10::InferenceMode no_grad;
  Batch& batch = batches_[size];
  const std::vector<int64_t> shape = {size, 3, kInputSize, kInputSize};
  batch.host_in = torch::zeros(shape, torch::kFloat)
                      .contiguous(at::MemoryFormat::ChannelsLast)
                      .pin_memory();
  batch.in = batch.host_in.to(device_);
  Compute(batch);  // Chooses kernels, which a graph must not.
  batch.host_out = batch.out.cpu().pin_memory();
#ifdef FINETUNE_WITH_CUDA
  try {
    auto graph = std::make_unique<at::cuda::CUDAGraph>();
    // Else a call of another thread's, a scrape's say, would spoil it.
    graph->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      Compute(batch);
    } catch (...) {
      graph->capture_end();
      throw;
    }
    graph->capture_end();
    batch.graph = std::move(graph);
  } catch (const c10::Error&) {
    Compute(batch);  // What a failed recording left is no memory to use.
  }
#endif
}

void CudaForward::Launch(Batch& batch) {
#ifdef FINETUNE_WITH_CUDA
  if (batch.graph != nullptr) {
    batch.graph->replay();
    return;
  }
#endif
  Compute(batch);
}

std::vector<Probabilities> CudaForward::Run(
    absl::Span<const float* const> inputs) {
  const c10::InferenceMode no_grad;
  MutexLock lock(mu_);
  std::vector<Probabilities> probabilities;
  const auto largest = static_cast<size_t>(batches_.rbegin()->first);
  while (!inputs.empty()) {
    const auto part = inputs.subspan(0, largest);
    inputs.remove_prefix(part.size());
    Batch& batch =
        batches_.at(PowerOfTwoFrom(static_cast<int64_t>(part.size())));
    auto* place = batch.host_in.mutable_data_ptr<float>();
    for (const float* const input : part) {
      std::memcpy(place, input, kInputFloats * sizeof(float));
      place += kInputFloats;
    }
#ifdef FINETUNE_WITH_CUDA
    const c10::cuda::CUDAStreamGuard on_stream(*stream_);
#endif
    batch.in.copy_(batch.host_in, /*non_blocking=*/true);
    Launch(batch);
#ifdef FINETUNE_WITH_CUDA
    batch.host_out.copy_(batch.out, /*non_blocking=*/true);
    stream_->synchronize();
#else
    batch.host_out.copy_(batch.out);
#endif
    const int64_t classes = batch.host_out.size(1);
    const float* row = batch.host_out.const_data_ptr<float>();
    for (size_t i = 0; i < part.size(); ++i, row += classes) {
      probabilities.emplace_back(row, row + classes);
    }
  }
  return probabilities;
}

uint64_t CudaForward::bytes() const {
  uint64_t bytes = 0;
  for (const torch::Tensor& tensor : net_->parameters()) {
    bytes += tensor.nbytes();
  }
  for (const auto& [size, batch] : batches_) bytes += batch.in.nbytes();
  return bytes;
}

}  // namespace

LoadedModel LoadOnCuda(ResNet18 net, const PredictorOptions& options) {
  auto forward = std::make_shared<CudaForward>(std::move(net), options);
  return {.forward = [forward](absl::Span<const float* const> inputs,
                               int) { return forward->Run(inputs); },
          .bytes = forward->bytes()};
}

}  // namespace finetune
