#include "server/model/pixel_normalizer.h"

#include "server/data/normalize.h"

namespace finetune {
namespace {

torch::Tensor PerChannel(const std::array<float, 3>& values) {
  return torch::tensor({values[0], values[1], values[2]}, torch::kDouble)
      .view({1, 3, 1, 1});
}

}  // namespace

PixelNormalizer::PixelNormalizer(torch::Device device) {
  const torch::Tensor std = PerChannel(kImageStd);
  scale_ = (1 / (255 * std)).to(device, torch::kFloat);
  shift_ = (-PerChannel(kImageMean) / std).to(device, torch::kFloat);
}

torch::Tensor PixelNormalizer::operator()(const torch::Tensor& pixels) const {
  return torch::addcmul(shift_, pixels.permute({0, 3, 1, 2}).to(torch::kFloat),
                        scale_);
}

}  // namespace finetune
