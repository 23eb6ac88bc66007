#include "server/inference/forward_plan.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>

#include "absl/strings/match.h"
#include "server/data/normalize.h"

namespace finetune {
namespace {

using dnnl::algorithm;
using onednn::Convolution;
using onednn::Desc;
using onednn::Dims;
using tag = dnnl::memory::format_tag;

constexpr size_t RoundedUp(size_t bytes) {
  return (bytes + Workspace::kAlignment - 1) / Workspace::kAlignment *
         Workspace::kAlignment;
}

int64_t OutputSide(const FoldedLayer& layer, int64_t side) {
  return (side - 1) / layer.stride + 1;
}

// oneDNN offers F(2x2, 3x3) first for a single image, but F(4x4, 3x3) is
// quicker up to 256 channels; beyond, its large weights are read too slowly.
const char* PreferredWinograd(const FoldedLayer& layer) {
  return layer.in <= 256 ? "wino_4x3" : "";
}

// Winograd where there is one, and the input as it is laid out where that does
// not lead to oneDNN's reference code, which is 1000 times slower.
Convolution Choose(const dnnl::engine& engine, const FoldedLayer& layer,
                   const Desc& in, bool sum, bool relu) {
  const Dims in_dims = onednn::DimsOf(in);
  const int64_t side = OutputSide(layer, in_dims[2]);
  const Desc any_in = onednn::Floats(in_dims);
  const Desc weights =
      onednn::Floats({layer.out, layer.in, layer.kernel, layer.kernel});
  const Desc bias = onednn::Floats({layer.out}, tag::x);
  const Desc out = onednn::Floats({in_dims[0], layer.out, side, side});
  const auto make = [&](algorithm how, const Desc& from,
                        const char* preferred = "") {
    return onednn::MakeConvolution(
        engine, how, from, weights, bias, out, layer.stride, layer.kernel / 2,
        onednn::Attributes(onednn::SumAndRelu(sum, relu)), preferred);
  };
  if (layer.kernel == 3 && layer.stride == 1) {
    const Convolution winograd =
        make(algorithm::convolution_winograd, any_in, PreferredWinograd(layer));
    if (winograd) return winograd;
  }
  const Convolution chosen = make(algorithm::convolution_direct, in);
  if (chosen && !absl::StartsWith(chosen.impl_info_str(), "ref")) return chosen;
  return make(algorithm::convolution_direct, any_in);
}

}  // namespace

LayerWeights::LayerWeights(FoldedResNet18 net) : net_(std::move(net)) {
  const auto count = [&](const FoldedLayer& layer) {
    bytes_ += (layer.weights.size() + layer.bias.size()) * sizeof(float);
  };
  count(net_.conv1);
  for (const FoldedResNet18::Block& block : net_.blocks) {
    count(block.conv1);
    count(block.conv2);
    count(block.downsample);
  }
  count(net_.fc);
}

dnnl::memory LayerWeights::Weights(const FoldedLayer& layer,
                                   const Desc& layout) {
  std::vector<dnnl::memory>& layouts = layouts_[&layer];
  for (const dnnl::memory& known : layouts) {
    if (known.get_desc() == layout) return known;
  }
  const Desc plain = onednn::Floats(onednn::DimsOf(layout), tag::oihw);
  dnnl::memory from(plain, engine_, const_cast<float*>(layer.weights.data()));
  dnnl::memory to(layout, engine_);
  dnnl::stream stream(engine_);
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
  bytes_ += layout.get_size();
  layouts.push_back(to);
  return to;
}

dnnl::memory LayerWeights::Bias(const FoldedLayer& layer) {
  return dnnl::memory(onednn::Floats({layer.out}, tag::x), engine_,
                      const_cast<float*>(layer.bias.data()));
}

ForwardPlan::ForwardPlan(LayerWeights& weights, int batch)
    : weights_(weights), batch_(batch) {
  // Channel planes: the layout from which the first convolution leads to the
  // blocked one of all others.
  input_ = Allocate(
      onednn::Floats({batch_, 3, kInputSize, kInputSize}, tag::nchw), {});
  Tensor in = input_;
  Tensor x = Convolve(weights_.net().conv1, in, /*relu=*/true, nullptr, {});
  x = Pool(algorithm::pooling_max, x, onednn::DimsOf(x.desc)[2] / 2, 2, 3, 1);
  for (const FoldedResNet18::Block& block : weights_.net().blocks) {
    x = AddBlock(block, x);
  }
  AddHead(x);
}

ForwardPlan::Tensor ForwardPlan::AddBlock(const FoldedResNet18::Block& block,
                                          Tensor in) {
  Tensor middle = Convolve(block.conv1, in, /*relu=*/true, nullptr, {});
  const Tensor shortcut = block.downsample.weights.empty()
                              ? in
                              : Convolve(block.downsample, in, /*relu=*/false,
                                         nullptr, {middle.slot});
  return Convolve(block.conv2, middle, /*relu=*/true, &shortcut, {});
}

void ForwardPlan::AddHead(const Tensor& in) {
  const FoldedLayer& fc = weights_.net().fc;
  const int64_t side = onednn::DimsOf(in.desc)[2];
  Tensor x = Pool(algorithm::pooling_avg_exclude_padding, in, 1, 1, side, 0);
  const onednn::InnerProduct product = onednn::MakeInnerProduct(
      weights_.engine(), onednn::Floats({batch_, fc.in, 1, 1}),
      onednn::Floats({fc.out, fc.in, 1, 1}), onednn::Floats({fc.out}, tag::x),
      onednn::Floats({batch_, fc.out}, tag::nc));
  x = Reordered(x, product.src_desc(), {});
  output_ = Allocate(product.dst_desc(), {x.slot});
  AddLayer(dnnl::inner_product_forward(product), fc, product.weights_desc(),
           product.scratchpad_desc(), x, output_);
}

ForwardPlan::Tensor ForwardPlan::Allocate(const Desc& desc,
                                          std::vector<Slot> taken) {
  int slot = kA;
  while (std::count(taken.begin(), taken.end(), slot) > 0) ++slot;
  slot_bytes_[slot] = std::max(slot_bytes_[slot], RoundedUp(desc.get_size()));
  return {desc, static_cast<Slot>(slot)};
}

ForwardPlan::Tensor ForwardPlan::Reordered(const Tensor& from, const Desc& desc,
                                           std::vector<Slot> taken) {
  if (from.desc == desc) return from;
  taken.push_back(from.slot);
  const Tensor to = Allocate(desc, std::move(taken));
  const dnnl::reorder::primitive_desc reorder(weights_.engine(), from.desc,
                                              weights_.engine(), to.desc);
  steps_.push_back({.primitive = dnnl::reorder(reorder),
                    .tensors = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}});
  return to;
}

void ForwardPlan::AddLayer(const dnnl::primitive& primitive,
                           const FoldedLayer& layer, const Desc& weights,
                           const Desc& scratchpad, const Tensor& in,
                           const Tensor& out) {
  slot_bytes_[kScratchpad] =
      std::max(slot_bytes_[kScratchpad], RoundedUp(scratchpad.get_size()));
  steps_.push_back(
      {.primitive = primitive,
       .tensors = {{DNNL_ARG_SRC, in},
                   {DNNL_ARG_DST, out},
                   {DNNL_ARG_SCRATCHPAD, {scratchpad, kScratchpad}}},
       .constants = {{DNNL_ARG_WEIGHTS, weights_.Weights(layer, weights)},
                     {DNNL_ARG_BIAS, weights_.Bias(layer)}}});
}

ForwardPlan::Tensor ForwardPlan::Convolve(const FoldedLayer& layer, Tensor& in,
                                          bool relu, const Tensor* shortcut,
                                          std::vector<Slot> kept) {
  const Convolution convolution =
      Choose(weights_.engine(), layer, in.desc, shortcut != nullptr, relu);
  if (shortcut != nullptr) kept.push_back(shortcut->slot);
  in = Reordered(in, convolution.src_desc(), kept);
  kept.push_back(in.slot);
  const Tensor out = shortcut != nullptr
                         ? Reordered(*shortcut, convolution.dst_desc(), kept)
                         : Allocate(convolution.dst_desc(), kept);
  AddLayer(dnnl::convolution_forward(convolution), layer,
           convolution.weights_desc(), convolution.scratchpad_desc(), in, out);
  return out;
}

ForwardPlan::Tensor ForwardPlan::Pool(algorithm how, const Tensor& in,
                                      int64_t side, int64_t stride,
                                      int64_t kernel, int64_t padding) {
  const onednn::Pooling pooling = onednn::MakePooling(
      weights_.engine(), how, in.desc,
      onednn::Floats({batch_, onednn::DimsOf(in.desc)[1], side, side}), stride,
      kernel, padding);
  const Tensor out = Allocate(pooling.dst_desc(), {in.slot});
  slot_bytes_[kScratchpad] =
      std::max(slot_bytes_[kScratchpad],
               RoundedUp(pooling.scratchpad_desc().get_size()));
  steps_.push_back({.primitive = dnnl::pooling_forward(pooling),
                    .tensors = {{DNNL_ARG_SRC, in},
                                {DNNL_ARG_DST, out},
                                {DNNL_ARG_SCRATCHPAD,
                                 {pooling.scratchpad_desc(), kScratchpad}}}});
  return out;
}

size_t ForwardPlan::workspace_floats() const {
  size_t bytes = 0;
  for (const size_t slot : slot_bytes_) bytes += slot;
  return bytes / sizeof(float);
}

dnnl::memory ForwardPlan::MemoryOf(const Tensor& tensor,
                                   Workspace& workspace) const {
  size_t offset = 0;
  for (int slot = 0; slot < tensor.slot; ++slot) offset += slot_bytes_[slot];
  return dnnl::memory(tensor.desc, weights_.engine(),
                      workspace.at(offset / sizeof(float)));
}

void ForwardPlan::Run(absl::Span<const uint8_t* const> inputs,
                      Workspace& workspace, float* logits) const {
  dnnl::stream stream(weights_.engine());
  auto* place =
      static_cast<float*>(MemoryOf(input_, workspace).get_data_handle());
  for (const uint8_t* const pixels : inputs) {
    NormalizeChannelsFirst(pixels, place);
    place += kInputBytes;
  }
  std::unordered_map<int, dnnl::memory> arguments;
  for (const Step& step : steps_) {
    arguments.clear();
    for (const auto& [argument, tensor] : step.tensors) {
      arguments[argument] = MemoryOf(tensor, workspace);
    }
    for (const auto& [argument, memory] : step.constants) {
      arguments[argument] = memory;
    }
    step.primitive.execute(stream, arguments);
  }
  stream.wait();
  std::memcpy(logits, MemoryOf(output_, workspace).get_data_handle(),
              output_.desc.get_size());
}

}  // namespace finetune
