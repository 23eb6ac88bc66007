#include "server/inference/cuda_net.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace finetune {
namespace {

constexpr int64_t kOne[] = {1, 1};

}  // namespace

CudaNet::CudaNet(const FoldedResNet18& net, torch::Device device,
                 torch::Dtype type)
    : options_(torch::dtype(type).device(device)), normalize_(device) {
  conv1_ = Upload(net.conv1);
  for (const FoldedResNet18::Block& block : net.blocks) {
    FoldedLayer conv2 = block.conv2;
    Block uploaded{.conv1 = Upload(block.conv1)};
    if (!block.downsample.weights.empty()) {
      uploaded.downsample = Upload(block.downsample);
      // Part of the same sum, so that it needs no kernel of its own.
      std::transform(conv2.bias.begin(), conv2.bias.end(),
                     block.downsample.bias.begin(), conv2.bias.begin(),
                     std::plus<>());
    }
    uploaded.conv2 = Upload(conv2);
    blocks_.push_back(std::move(uploaded));
  }
  fc_ = Upload(net.fc);
}

CudaNet::Layer CudaNet::Upload(const FoldedLayer& layer) const {
  const auto on_device = [this](const std::vector<float>& values,
                                at::IntArrayRef shape) {
    return torch::from_blob(const_cast<float*>(values.data()), shape)
        .to(options_);
  };
  return {.weights = on_device(layer.weights, {layer.out, layer.in,
                                               layer.kernel, layer.kernel})
                         .contiguous(at::MemoryFormat::ChannelsLast),
          .bias = on_device(layer.bias, {layer.out}),
          .stride = layer.stride,
          .padding = layer.kernel / 2};
}

torch::Tensor CudaNet::RunBlock(const Block& block,
                                const torch::Tensor& x) const {
  const torch::Tensor middle = at::cudnn_convolution_relu(
      x, block.conv1.weights, block.conv1.bias,
      {block.conv1.stride, block.conv1.stride},
      {block.conv1.padding, block.conv1.padding}, kOne, 1);
  const torch::Tensor shortcut =
      block.downsample.weights.defined()
          ? at::conv2d(x, block.downsample.weights, {}, block.downsample.stride)
          : x;
  return at::cudnn_convolution_add_relu(
      middle, block.conv2.weights, shortcut, /*alpha=*/1, block.conv2.bias,
      kOne, {block.conv2.padding, block.conv2.padding}, kOne, 1);
}

torch::Tensor CudaNet::Forward(const torch::Tensor& pixels) const {
  torch::Tensor x = normalize_(pixels)
                        .to(options_.dtype())
                        .contiguous(at::MemoryFormat::ChannelsLast);
  x = at::cudnn_convolution_relu(x, conv1_.weights, conv1_.bias,
                                 {conv1_.stride, conv1_.stride},
                                 {conv1_.padding, conv1_.padding}, kOne, 1);
  x = at::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  for (const Block& block : blocks_) x = RunBlock(block, x);
  x = x.mean({2, 3}, /*keepdim=*/true);
  x = at::conv2d(x, fc_.weights, fc_.bias).flatten(1);
  return x.to(torch::kFloat).softmax(1);
}

}  // namespace finetune
