#include "server/model/resnet18.h"

namespace finetune {
namespace {

torch::nn::Conv2d Conv(int64_t in, int64_t out, int64_t kernel,
                       int64_t stride) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, kernel)
                               .stride(stride)
                               .padding(kernel / 2)
                               .bias(false));
}

torch::nn::Sequential Layer(int64_t in, int64_t channels, int64_t stride) {
  return torch::nn::Sequential(BasicBlock(in, channels, stride),
                               BasicBlock(channels, channels, 1));
}

}  // namespace

BasicBlockImpl::BasicBlockImpl(int64_t in_channels, int64_t channels,
                               int64_t stride)
    : conv1(Conv(in_channels, channels, 3, stride)),
      conv2(Conv(channels, channels, 3, 1)),
      bn1(channels),
      bn2(channels) {
  register_module("conv1", conv1);
  register_module("bn1", bn1);
  register_module("conv2", conv2);
  register_module("bn2", bn2);
  if (stride != 1 || in_channels != channels) {
    downsample->push_back(Conv(in_channels, channels, 1, stride));
    downsample->push_back(torch::nn::BatchNorm2d(channels));
    register_module("downsample", downsample);
  }
}

torch::Tensor BasicBlockImpl::forward(torch::Tensor x) {
  torch::Tensor out = bn1->forward(conv1->forward(x)).relu_();
  out = bn2->forward(conv2->forward(out));
  out += downsample->is_empty() ? x : downsample->forward(x);
  return out.relu_();
}

ResNet18Impl::ResNet18Impl(int64_t classes)
    : conv1(Conv(3, 64, 7, 2)),
      bn1(64),
      layer1(Layer(64, 64, 1)),
      layer2(Layer(64, 128, 2)),
      layer3(Layer(128, 256, 2)),
      layer4(Layer(256, 512, 2)),
      fc(512, classes) {
  register_module("conv1", conv1);
  register_module("bn1", bn1);
  register_module("layer1", layer1);
  register_module("layer2", layer2);
  register_module("layer3", layer3);
  register_module("layer4", layer4);
  register_module("fc", fc);
  for (const auto& module : modules(/*include_self=*/false)) {
    if (const auto* conv = module->as<torch::nn::Conv2d>()) {
      torch::nn::init::kaiming_normal_(conv->weight, /*a=*/0, torch::kFanOut,
                                       torch::kReLU);
    }
  }
}

torch::Tensor ResNet18Impl::forward(torch::Tensor images) {
  torch::Tensor x = bn1->forward(conv1->forward(images)).relu_();
  x = torch::max_pool2d(x, /*kernel_size=*/3, /*stride=*/2, /*padding=*/1);
  x = layer1->forward(x);
  x = layer2->forward(x);
  x = layer3->forward(x);
  x = layer4->forward(x);
  x = torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1);
  return fc->forward(x);
}

void ToChannelsLast(torch::nn::Module& module) {
  for (torch::Tensor& parameter : module.parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
    }
  }
}

}  // namespace finetune
