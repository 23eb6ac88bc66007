#include "server/inference/predictor.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/data/normalize.h"
#include "server/inference/fold_resnet18.h"
#include "server/inference/fused_resnet18.h"
#include "server/model/device.h"
#include "server/model/resnet18.h"
#include "server/model/weights.h"
#ifdef FINETUNE_WITH_CUDA
#include "server/inference/cuda_forward.h"
#endif

namespace finetune {
namespace {

Probabilities Softmax(absl::Span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  Probabilities probabilities(logits.size());
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    probabilities[i] = std::exp(logits[i] - largest);
    sum += probabilities[i];
  }
  for (float& p : probabilities) p = static_cast<float>(p / sum);
  return probabilities;
}

LoadedModel OnCpu(FoldedResNet18 net, const PredictorOptions& options) {
  const auto classes = static_cast<size_t>(net.fc.out);
  auto fused = std::make_shared<FusedResNet18>(std::move(net));
  fused->Warm(options.max_batch, 1);
  for (int threads = 2; threads <= options.threads; ++threads) {
    fused->Warm(1, threads);
  }
  // Its workspace is there afterwards, its pages too.
  const std::vector<uint8_t> black(kInputBytes);
  fused->Forward(std::vector<const uint8_t*>(options.max_batch, black.data()),
                 1);
  return {.forward =
              [fused, classes](absl::Span<const uint8_t* const> inputs,
                               int threads) {
                const std::vector<float> logits =
                    fused->Forward(inputs, threads);
                std::vector<Probabilities> probabilities;
                for (size_t i = 0; i < logits.size(); i += classes) {
                  probabilities.push_back(Softmax({&logits[i], classes}));
                }
                return probabilities;
              },
          .bytes = fused->bytes()};
}

#ifndef FINETUNE_WITH_CUDA
LoadedModel LoadOnCuda(const FoldedResNet18& /*net*/,
                       const PredictorOptions& /*options*/) {
  TORCH_CHECK(false, "this LibTorch has no CUDA");
}
#endif

absl::Status CheckPrecision(const PredictorOptions& options) {
  if (options.precision != "fp32" && options.precision != "tf32" &&
      options.precision != "fp16" && options.precision != "bf16") {
    return absl::InvalidArgumentError(absl::StrCat(
        "precision is fp32, tf32, fp16 or bf16, not ", options.precision));
  }
  if (options.precision != "fp32" && options.device == "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("precision ", options.precision,
                     " needs a CUDA device; a CPU computes in fp32"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoadedModel> LoadPredictor(const std::filesystem::path& weights,
                                          int64_t classes,
                                          const PredictorOptions& options) try {
  RETURN_IF_ERROR(CheckPrecision(options));
  ASSIGN_OR_RETURN(const StateDict state, ReadStateDict(weights));
  if (const absl::Status finite = CheckFinite(state); !finite.ok()) {
    return absl::DataLossError(
        absl::StrCat(weights.native(), ": ", finite.message()));
  }
  ResNet18 net(classes);
  RETURN_IF_ERROR(LoadStateDict(state, *net));
  net->eval();
  if (options.device == "cpu") return OnCpu(Fold(*net), options);
  return LoadOnCuda(Fold(*net), options);
} catch (const c10::Error& e) {
  if (IsOutOfGpuMemory(e.what_without_backtrace())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("load ", weights.native(), ": out of GPU memory (",
                     FirstLine(e.what_without_backtrace()), ")"));
  }
  return absl::InternalError(absl::StrCat("load ", weights.native(), ": ",
                                          e.what_without_backtrace()));
} catch (const std::exception& e) {
  return absl::InternalError(
      absl::StrCat("load ", weights.native(), ": ", e.what()));
}

}  // namespace finetune
