#include "server/inference/cuda_forward.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ATen/cuda/CUDAGraph.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "c10/core/Event.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAGuard.h"
#include "c10/cuda/CUDAStream.h"
#include "common/mutex.h"
#include "server/data/normalize.h"
#include "server/inference/cuda_graph.h"
#include "server/inference/cuda_net.h"
#include "torch/torch.h"

namespace finetune {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

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

// The allocator returns no memory while something is recorded, and takes it
// for a fault in its caller to ask.
Mutex& AllocatorMutex() {
  static Mutex& mu = *new Mutex;
  return mu;
}

// A stream that nobody else has. PyTorch's own pool hands each of its 32 out
// again and again, so that one that records could be one that works.
class OwnStream {
 public:
  explicit OwnStream(c10::DeviceIndex device) : device_(device) {
    const c10::cuda::CUDAGuard on_device(device);
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&raw_, cudaStreamNonBlocking));
  }
  ~OwnStream() { cudaStreamDestroy(raw_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  c10::cuda::CUDAStream get() const {
    return c10::cuda::getStreamFromExternal(raw_, device_);
  }

 private:
  const c10::DeviceIndex device_;
  cudaStream_t raw_ = nullptr;
};

// Of all loads, one at a time: memory that one frees suits the next.
const OwnStream& LoadStream(c10::DeviceIndex device)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(AllocatorMutex()) {
  static auto& streams =
      *new std::map<c10::DeviceIndex, std::unique_ptr<OwnStream>>;
  auto& stream = streams[device];
  if (stream == nullptr) stream = std::make_unique<OwnStream>(device);
  return *stream;
}

// Gives cached memory back to the GPU, for a trainer say.
void EmptyCache(torch::Device device) ABSL_LOCKS_EXCLUDED(AllocatorMutex()) {
  const MutexLock lock(AllocatorMutex());
  try {
    const c10::cuda::CUDAGuard on_device(device);
    allocator::emptyCache();
  } catch (const c10::Error&) {
    // A GPU that has failed is noticed by those who compute on it.
  }
}

// About what a model takes: its weights, what the network's first two layers
// hold at once (the pooling's indices too), and cuDNN's workspaces of about
// that size.
int64_t EstimatedBytes(int64_t batch, torch::Dtype type) {
  constexpr int64_t kWeights = 12'000'000;
  constexpr int64_t kConvolved = int64_t{64} * 112 * 112;
  constexpr int64_t kPooled = int64_t{64} * 56 * 56;
  const auto size = static_cast<int64_t>(c10::elementSize(type));
  return kWeights * size +
         2 * batch *
             ((kConvolved + kPooled) * size +
              kPooled * static_cast<int64_t>(sizeof(int64_t)));
}

int64_t ReservedBytes(c10::DeviceIndex device) {
  return allocator::getDeviceStats(device)
      .reserved_bytes[static_cast<size_t>(
          c10::CachingAllocator::StatType::AGGREGATE)]
      .current;
}

class CudaForward {
 public:
  CudaForward(const FoldedResNet18& net, const PredictorOptions& options);

  std::vector<Probabilities> Run(absl::Span<const uint8_t* const> inputs)
      ABSL_LOCKS_EXCLUDED(mu_, lanes_mu_);

  uint64_t bytes() const { return bytes_; }

 private:
  // The first member, so that it goes last, after the memory.
  struct CacheEmptier {
    const torch::Device device;
    ~CacheEmptier() { EmptyCache(device); }
  };
  // Where a call's inputs arrive and its answers leave, beside other calls'.
  struct Lane {
    // As large as the graphs' own.
    Lane(const torch::Tensor& graph_pixels,
         const torch::Tensor& graph_probabilities)
        : stream(graph_pixels.device().index()),
          pixels(torch::zeros_like(graph_pixels)),
          probabilities(torch::zeros_like(graph_probabilities)),
          host(torch::zeros_like(graph_probabilities, torch::kCPU)
                   .pin_memory()) {}

    const OwnStream stream;
    const torch::Tensor pixels, probabilities;
    const torch::Tensor host;  // For `probabilities`, pinned.
  };

  void Load(const FoldedResNet18& net, const PredictorOptions& options);
  void Record(int64_t size, c10::MempoolId_t pool,
              const PredictorOptions& options);
  void Compute(int64_t size);
  void RunPart(Lane& lane, absl::Span<const uint8_t* const> inputs,
               std::vector<Probabilities>& probabilities)
      ABSL_LOCKS_EXCLUDED(mu_);
  std::unique_ptr<Lane> TakeLane() ABSL_LOCKS_EXCLUDED(lanes_mu_);
  void GiveBack(std::unique_ptr<Lane> lane) ABSL_LOCKS_EXCLUDED(lanes_mu_);

  const CacheEmptier empty_cache_;
  const torch::Device device_;
  const int64_t largest_;  // Batch, a power of two.
  uint64_t bytes_ = 0;

  Mutex mu_;  // For what one pass at a time may use: all until the next line.
  std::optional<CudaNet> net_;
  // Memory that stays where it is, since a graph knows only addresses.
  torch::Tensor pixels_, probabilities_;
  std::map<int64_t, std::unique_ptr<CudaGraph>> graphs_;  // By batch size.
  c10::Event idle_{c10::DeviceType::CUDA};  // The last pass is done with it.

  Mutex lanes_mu_;
  std::vector<std::unique_ptr<Lane>> lanes_ ABSL_GUARDED_BY(lanes_mu_);
};

CudaForward::CudaForward(const FoldedResNet18& net,
                         const PredictorOptions& options)
    : empty_cache_{torch::Device(options.device)},
      device_(options.device),
      largest_(PowerOfTwoFrom(options.max_batch)) {
  const c10::InferenceMode no_grad;
  // The allocator answers nothing before.
  at::globalContext().lazyInitDevice(device_.type());
  const c10::cuda::CUDAGuard on_device(device_);
  const MutexLock lock(AllocatorMutex());
  const c10::cuda::CUDAStream stream = LoadStream(device_.index()).get();
  const c10::cuda::CUDAStreamGuard on_stream(stream);
  allocator::emptyCache();
  // Where there is too little memory this throws at once. cuDNN would try
  // kernel after kernel for want of a workspace, for more than a minute.
  torch::empty({EstimatedBytes(largest_, TypeOf(options.precision))},
               torch::dtype(torch::kByte).device(device_));
  allocator::emptyCache();
  const int64_t before = ReservedBytes(device_.index());
  Load(net, options);
  stream.synchronize();
  allocator::emptyCache();
  // What others freed meanwhile must not be counted as if this had freed it,
  // and what runs without a graph takes its memory anew.
  const bool recorded = graphs_.contains(largest_);
  bytes_ = std::max<int64_t>(
      ReservedBytes(device_.index()) - before,
      recorded ? pixels_.nbytes()
               : EstimatedBytes(largest_, TypeOf(options.precision)));
}

void CudaForward::Load(const FoldedResNet18& net,
                       const PredictorOptions& options) {
  // Else convolutions of float32 round their inputs to 10 bits.
  at::globalContext().setAllowTF32CuDNN(options.precision == "tf32");
  net_.emplace(net, device_, TypeOf(options.precision));
  pixels_ = torch::zeros({largest_, kInputSize, kInputSize, 3},
                         torch::dtype(torch::kByte).device(device_));
  probabilities_ = torch::zeros({largest_, net_->classes()},
                                torch::dtype(torch::kFloat).device(device_));
  for (int i = 0; i < kCudaWorkers; ++i) {
    GiveBack(std::make_unique<Lane>(pixels_, probabilities_));
  }
  // Chooses kernels, which a graph must not. The memory that this takes is
  // given back before a recording takes as much.
  for (int64_t size = largest_; size >= 1; size /= 2) Compute(size);
  allocator::emptyCache();
  const c10::MempoolId_t pool = at::cuda::graph_pool_handle();
  // Or the pool would end with a first recording that fails.
  allocator::createOrIncrefPool(device_.index(), pool);
  const absl::Cleanup release = [&] {
    allocator::releasePool(device_.index(), pool);
  };
  // The largest first: its memory is enough for all others.
  for (int64_t size = largest_; size >= 1; size /= 2) {
    Record(size, pool, options);
  }
}

void CudaForward::Compute(int64_t size) {
  probabilities_.narrow(0, 0, size)
      .copy_(net_->Forward(pixels_.narrow(0, 0, size)));
}

void CudaForward::Record(int64_t size, c10::MempoolId_t pool,
                         const PredictorOptions& options) {
  const auto stream = c10::cuda::getCurrentCUDAStream(device_.index());
  auto graph = CudaGraph::Record(stream, pool, [&] {
    if (options.while_recording) options.while_recording();
    Compute(size);
  });
  if (graph.ok()) {
    graphs_[size] = *std::move(graph);
  } else if (options.on_warning) {
    options.on_warning(absl::StrCat(
        "no CUDA graph for batches of ", size,
        ", which run more slowly without: ", graph.status().message()));
  }
}

std::unique_ptr<CudaForward::Lane> CudaForward::TakeLane() {
  const MutexLock lock(lanes_mu_);
  lanes_mu_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lanes_mu_) {
    return !lanes_.empty();
  });
  std::unique_ptr<Lane> lane = std::move(lanes_.back());
  lanes_.pop_back();
  return lane;
}

void CudaForward::GiveBack(std::unique_ptr<Lane> lane) {
  const MutexLock lock(lanes_mu_);
  lanes_.push_back(std::move(lane));
}

std::vector<Probabilities> CudaForward::Run(
    absl::Span<const uint8_t* const> inputs) {
  const c10::InferenceMode no_grad;
  const c10::cuda::CUDAGuard on_device(device_);
  std::unique_ptr<Lane> lane = TakeLane();
  const absl::Cleanup give_back = [&] { GiveBack(std::move(lane)); };
  std::vector<Probabilities> probabilities;
  while (!inputs.empty()) {
    const auto part = inputs.subspan(0, largest_);
    inputs.remove_prefix(part.size());
    RunPart(*lane, part, probabilities);
  }
  return probabilities;
}

void CudaForward::RunPart(Lane& lane, absl::Span<const uint8_t* const> inputs,
                          std::vector<Probabilities>& probabilities) {
  const c10::cuda::CUDAStream stream = lane.stream.get();
  const c10::cuda::CUDAStreamGuard on_stream(stream);
  // Nothing may touch `inputs` after this call, also where it throws.
  const absl::Cleanup end_copies = [&] { cudaStreamSynchronize(stream); };
  const auto count = static_cast<int64_t>(inputs.size());
  const int64_t size = PowerOfTwoFrom(count);
  auto* place = lane.pixels.mutable_data_ptr<uint8_t>();
  for (const uint8_t* const input : inputs) {
    C10_CUDA_CHECK(cudaMemcpyAsync(place, input, kInputBytes,
                                   cudaMemcpyHostToDevice, stream));
    place += kInputBytes;
  }
  {
    const MutexLock lock(mu_);
    // Or the next call would not know what a failed one has left running.
    absl::Cleanup wait = [&] { cudaStreamSynchronize(stream); };
    idle_.block(stream.unwrap());
    pixels_.narrow(0, 0, count).copy_(lane.pixels.narrow(0, 0, count));
    const auto graph = graphs_.find(size);
    if (graph != graphs_.end()) {
      graph->second->Launch(stream);
    } else {
      Compute(size);
    }
    lane.probabilities.narrow(0, 0, count)
        .copy_(probabilities_.narrow(0, 0, count));
    idle_.record(stream.unwrap());
    std::move(wait).Cancel();
  }
  const int64_t classes = lane.host.size(1);
  // Not by the tensors' copy, which would have the allocator wait for the
  // stream when `host` is freed, and end the process where the GPU has failed.
  C10_CUDA_CHECK(cudaMemcpyAsync(
      lane.host.mutable_data_ptr(), lane.probabilities.const_data_ptr(),
      count * classes * sizeof(float), cudaMemcpyDeviceToHost, stream));
  stream.synchronize();
  const float* row = lane.host.const_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i, row += classes) {
    probabilities.emplace_back(row, row + classes);
  }
}

}  // namespace

LoadedModel LoadOnCuda(const FoldedResNet18& net,
                       const PredictorOptions& options) {
  auto forward = std::make_shared<CudaForward>(net, options);
  return {.forward = [forward](absl::Span<const uint8_t* const> inputs,
                               int) { return forward->Run(inputs); },
          .bytes = forward->bytes()};
}

}  // namespace finetune
