#include "server/inference/fold_resnet18.h"

#include <vector>

namespace finetune {
namespace {

std::vector<float> Floats(const torch::Tensor& tensor) {
  const torch::Tensor plain = tensor.detach().to(torch::kFloat).contiguous();
  const float* const data = plain.const_data_ptr<float>();
  return std::vector<float>(data, data + plain.numel());
}

FoldedLayer FoldPair(const torch::nn::Conv2dImpl& conv,
                     const torch::nn::BatchNorm2dImpl& norm) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor scale =
      norm.weight.to(torch::kDouble) /
      (norm.running_var.to(torch::kDouble) + norm.options.eps()).sqrt();
  return {.in = conv.options.in_channels(),
          .out = conv.options.out_channels(),
          .kernel = conv.options.kernel_size()->at(0),
          .stride = conv.options.stride()->at(0),
          .weights = Floats(conv.weight.to(torch::kDouble) *
                            scale.view({-1, 1, 1, 1})),
          .bias = Floats(norm.bias.to(torch::kDouble) -
                         norm.running_mean.to(torch::kDouble) * scale)};
}

FoldedResNet18::Block FoldBlock(const BasicBlockImpl& block) {
  FoldedResNet18::Block folded{.conv1 = FoldPair(*block.conv1, *block.bn1),
                               .conv2 = FoldPair(*block.conv2, *block.bn2)};
  if (!block.downsample->is_empty()) {
    folded.downsample =
        FoldPair(*block.downsample->ptr(0)->as<torch::nn::Conv2d>(),
                 *block.downsample->ptr(1)->as<torch::nn::BatchNorm2d>());
  }
  return folded;
}

}  // namespace

FoldedResNet18 Fold(const ResNet18Impl& net) {
  FoldedResNet18 folded{.conv1 = FoldPair(*net.conv1, *net.bn1),
                        .fc = {.in = net.fc->options.in_features(),
                               .out = net.fc->options.out_features(),
                               .weights = Floats(net.fc->weight),
                               .bias = Floats(net.fc->bias)}};
  for (const auto& layer : {net.layer1, net.layer2, net.layer3, net.layer4}) {
    for (const auto& block : *layer) {
      folded.blocks.push_back(FoldBlock(*block.ptr()->as<BasicBlock>()));
    }
  }
  return folded;
}

}  // namespace finetune
