#include "server/service/convert_inference.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "server/service/names.h"

namespace finetune {
namespace {

constexpr int kMaxTopK = 1000;

void AddScores(const v1::Model& model, int top_k,
               const Probabilities& probabilities, v1::ClassifyResult& result) {
  std::vector<int> best(probabilities.size());
  std::iota(best.begin(), best.end(), 0);
  const size_t count =
      top_k == 0 ? best.size() : std::min<size_t>(top_k, best.size());
  std::partial_sort(best.begin(), best.begin() + static_cast<ptrdiff_t>(count),
                    best.end(), [&](int a, int b) {
                      return probabilities[a] != probabilities[b]
                                 ? probabilities[a] > probabilities[b]
                                 : a < b;
                    });
  for (size_t i = 0; i < count; ++i) {
    auto* score = result.add_scores();
    score->set_class_index(best[i]);
    score->set_label(model.labels(best[i]));
    score->set_probability(probabilities[best[i]]);
  }
}

}  // namespace

absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request,
                                  const ClassifyLimits& limits) {
  if (request.images_size() < 1 || request.images_size() > limits.max_images) {
    return InvalidFieldError(
        "images", absl::StrCat("1..", limits.max_images, " images, not ",
                               request.images_size()));
  }
  for (int i = 0; i < request.images_size(); ++i) {
    const size_t bytes = request.images(i).size();
    if (bytes < 1 || bytes > limits.max_image_bytes) {
      return InvalidFieldError(
          absl::StrCat("images[", i, "]"),
          absl::StrCat("1..", limits.max_image_bytes, " bytes, not ", bytes));
    }
  }
  if (request.top_k() < 0 || request.top_k() > kMaxTopK) {
    return InvalidFieldError(
        "top_k", absl::StrCat("0..", kMaxTopK, ", not ", request.top_k()));
  }
  if (!request.model().name().empty() && !IsModelName(request.model().name())) {
    return InvalidFieldError("model.name", "1..63 of a-z, 0-9 and '-'");
  }
  if (request.model().version() < 0) {
    return InvalidFieldError("model.version", "0 or above");
  }
  if (request.model().version() > 0 && request.model().name().empty()) {
    return InvalidFieldError("model.name", "given where model.version is");
  }
  return absl::OkStatus();
}

v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome) {
  v1::ClassifyResponse response;
  *response.mutable_model() = model.ref();
  for (const auto& image : outcome.images) {
    v1::ClassifyResult& result = *response.add_results();
    if (image.ok()) {
      AddScores(model, top_k, *image, result);
    } else {
      *result.mutable_error() = ToRpcStatus(image.status());
    }
  }
  v1::ServerTiming& timing = *response.mutable_timing();
  *timing.mutable_queue() = ToProto(outcome.queue);
  *timing.mutable_preprocess() = ToProto(outcome.preprocess);
  *timing.mutable_compute() = ToProto(outcome.compute);
  timing.set_batch_size(outcome.batch_size);
  return response;
}

}  // namespace finetune
