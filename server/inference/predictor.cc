#include "server/inference/predictor.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "server/data/transforms.h"
#include "server/model/resnet18.h"
#include "server/model/weights.h"
#include "torch/torch.h"

namespace finetune {
namespace {

class Predictor {
 public:
  Predictor(ResNet18 net, const PredictorOptions& options)
      : net_(std::move(net)), options_(options), device_(options.device) {
    net_->eval();
    net_->to(device_);
    ToChannelsLast(*net_);
  }

  BatchResult Classify(absl::Span<const absl::string_view> images);

  // [N, 3, kInputSize, kInputSize] to [N, classes], both on the CPU.
  torch::Tensor Forward(const torch::Tensor& inputs) {
    const c10::InferenceMode no_grad;
    return net_->forward(inputs.to(device_)).softmax(1).cpu();
  }

 private:
  // One row an image, zeros where it does not decode and `errors` says why.
  torch::Tensor Preprocess(absl::Span<const absl::string_view> images,
                           std::vector<absl::Status>& errors) const;

  ResNet18 net_;
  const PredictorOptions options_;
  const torch::Device device_;
};

BatchResult Predictor::Classify(absl::Span<const absl::string_view> images) {
  // The thread that calls first may be any: the setting is per thread.
  at::set_num_threads(options_.threads);
  const absl::Time start = absl::Now();
  std::vector<absl::Status> errors(images.size());
  const torch::Tensor inputs = Preprocess(images, errors);
  const absl::Time transformed = absl::Now();
  const torch::Tensor probabilities = Forward(inputs);

  BatchResult result{.preprocess = transformed - start,
                     .compute = absl::Now() - transformed};
  const int64_t classes = probabilities.size(1);
  const float* row = probabilities.const_data_ptr<float>();
  for (const absl::Status& error : errors) {
    if (error.ok()) {
      result.images.push_back(Probabilities(row, row + classes));
    } else {
      result.images.push_back(error);
    }
    row += classes;
  }
  return result;
}

torch::Tensor Predictor::Preprocess(absl::Span<const absl::string_view> images,
                                    std::vector<absl::Status>& errors) const {
  const auto count = static_cast<int64_t>(images.size());
  torch::Tensor inputs =
      torch::empty({count, 3, kInputSize, kInputSize}, torch::TensorOptions(),
                   at::MemoryFormat::ChannelsLast)
          .zero_();
  float* const out = inputs.mutable_data_ptr<float>();
  at::parallel_for(0, count, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const absl::StatusOr<RgbImage> image =
          DecodeRgb(images[i], options_.limits);
      if (image.ok()) {
        TestTransform(*image, out + i * kInputFloats);
      } else {
        errors[i] = image.status();
      }
    }
  });
  return inputs;
}

}  // namespace

absl::StatusOr<ClassifyFn> LoadPredictor(const std::filesystem::path& weights,
                                         int64_t classes,
                                         const PredictorOptions& options) try {
  ASSIGN_OR_RETURN(const StateDict state, ReadStateDict(weights));
  ResNet18 net(classes);
  RETURN_IF_ERROR(LoadStateDict(state, *net));
  auto predictor = std::make_shared<Predictor>(std::move(net), options);
  predictor->Forward(torch::zeros({1, 3, kInputSize, kInputSize}));
  return [predictor](absl::Span<const absl::string_view> images) {
    return predictor->Classify(images);
  };
} catch (const c10::Error& e) {
  return absl::InternalError(absl::StrCat("load ", weights.native(), ": ",
                                          e.what_without_backtrace()));
}

}  // namespace finetune
