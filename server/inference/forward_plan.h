// What oneDNN executes for one batch size on one number of threads:
// FusedResNet18's machinery, and not for others.

#ifndef SERVER_INFERENCE_FORWARD_PLAN_H_
#define SERVER_INFERENCE_FORWARD_PLAN_H_

#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/types/span.h"
#include "common/mutex.h"
#include "server/inference/fused_resnet18.h"
#include "server/inference/onednn.h"

namespace finetune {

// Memory for what passes between layers. Not initialised.
class Workspace {
 public:
  explicit Workspace(size_t floats)
      : floats_(floats),
        data_(static_cast<float*>(
            std::aligned_alloc(kAlignment, floats * sizeof(float)))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }

  // Offsets and sizes are multiples of this: a page, which oneDNN likes best.
  static constexpr size_t kAlignment = 4096;  // Bytes.

  float* at(size_t offset) { return data_.get() + offset; }
  size_t floats() const { return floats_; }

 private:
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  size_t floats_;
  std::unique_ptr<float, Free> data_;
};

// The net's weights, in every layout that a plan asked for. Not thread-safe.
class LayerWeights {
 public:
  explicit LayerWeights(FoldedResNet18 net);

  const FoldedResNet18& net() const { return net_; }

  // `layer` is part of net().
  dnnl::memory Weights(const FoldedLayer& layer, const onednn::Desc& layout);
  dnnl::memory Bias(const FoldedLayer& layer);

  const dnnl::engine& engine() const { return engine_; }
  // Of all layouts and of net() itself.
  uint64_t bytes() const { return bytes_; }

 private:
  const FoldedResNet18 net_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::map<const FoldedLayer*, std::vector<dnnl::memory>> layouts_;
  uint64_t bytes_ = 0;
};

// Immutable: many threads may run it at once.
class ForwardPlan {
 public:
  // Made for as many threads as OpenMP would give the calling thread; so must
  // be the thread that calls Run. `weights` must outlive this.
  ForwardPlan(LayerWeights& weights, int batch);

  // Logits of `batch` inputs to logits[batch][classes].
  void Run(absl::Span<const uint8_t* const> inputs, Workspace& workspace,
           float* logits) const;

  size_t workspace_floats() const;

 private:
  // The workspace's parts; tensors take turns in the first of them.
  enum Slot { kA, kB, kC, kD, kScratchpad, kSlots };
  struct Tensor {
    onednn::Desc desc;
    Slot slot = kA;
  };
  struct Step {
    dnnl::primitive primitive;
    std::vector<std::pair<int, Tensor>> tensors;          // By argument.
    std::vector<std::pair<int, dnnl::memory>> constants;  // Likewise.
  };

  Tensor Allocate(const onednn::Desc& desc, std::vector<Slot> taken);
  Tensor Reordered(const Tensor& from, const onednn::Desc& desc,
                   std::vector<Slot> taken);
  void AddLayer(const dnnl::primitive& primitive, const FoldedLayer& layer,
                const onednn::Desc& weights, const onednn::Desc& scratchpad,
                const Tensor& in, const Tensor& out);
  // Writes onto `shortcut`, whose values are added, where there is one. Takes
  // care to leave `kept` alone.
  Tensor Convolve(const FoldedLayer& layer, Tensor& in, bool relu,
                  const Tensor* shortcut, std::vector<Slot> kept);
  Tensor Pool(dnnl::algorithm algorithm, const Tensor& in, int64_t side,
              int64_t stride, int64_t kernel, int64_t padding);
  Tensor AddBlock(const FoldedResNet18::Block& block, Tensor in);
  void AddHead(const Tensor& in);

  dnnl::memory MemoryOf(const Tensor& tensor, Workspace& workspace) const;

  LayerWeights& weights_;
  const int64_t batch_;
  Tensor input_, output_;
  std::vector<Step> steps_;
  std::array<size_t, kSlots> slot_bytes_ = {};
};

}  // namespace finetune

#endif  // SERVER_INFERENCE_FORWARD_PLAN_H_
