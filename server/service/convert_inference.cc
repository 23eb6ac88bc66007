#include "server/service/convert_inference.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/convert_model.h"

namespace finetune {
namespace {

constexpr size_t kMaxItemIdBytes = 255;

absl::Status CheckTopK(int top_k) {
  if (top_k >= 0 && top_k <= kMaxTopK) return absl::OkStatus();
  return InvalidFieldError("top_k",
                           absl::StrCat("0..", kMaxTopK, ", not ", top_k));
}

v1::ClassifyResult ToResult(const v1::Model& model, int top_k,
                            const absl::StatusOr<Probabilities>& image) {
  v1::ClassifyResult result;
  if (!image.ok()) {
    *result.mutable_error() = ToRpcStatus(image.status());
    return result;
  }
  const Probabilities& probabilities = *image;
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
  return result;
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
    RETURN_IF_ERROR(
        CheckImage(absl::StrCat("images[", i, "]"), request.images(i), limits));
  }
  RETURN_IF_ERROR(CheckTopK(request.top_k()));
  return CheckModelRef(request.model());
}

absl::Status CheckClassifyStreamRequest(
    const v1::ClassifyStreamRequest& request) {
  const size_t id_bytes = request.item_id().size();
  if (id_bytes < 1 || id_bytes > kMaxItemIdBytes) {
    return InvalidFieldError("item_id", absl::StrCat("1..", kMaxItemIdBytes,
                                                     " bytes, not ", id_bytes));
  }
  RETURN_IF_ERROR(CheckTopK(request.top_k()));
  return CheckModelRef(request.model());
}

absl::Status CheckImage(absl::string_view field, absl::string_view image,
                        const ClassifyLimits& limits) {
  if (!image.empty() && image.size() <= limits.max_image_bytes) {
    return absl::OkStatus();
  }
  return InvalidFieldError(field, absl::StrCat("1..", limits.max_image_bytes,
                                               " bytes, not ", image.size()));
}

v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome) {
  v1::ClassifyResponse response;
  *response.mutable_model() = model.ref();
  for (const auto& image : outcome.images) {
    *response.add_results() = ToResult(model, top_k, image);
  }
  v1::ServerTiming& timing = *response.mutable_timing();
  *timing.mutable_queue() = ToProto(outcome.queue);
  *timing.mutable_preprocess() = ToProto(outcome.preprocess);
  *timing.mutable_compute() = ToProto(outcome.compute);
  timing.set_batch_size(outcome.batch_size);
  return response;
}

v1::ClassifyStreamResponse ToClassifyStreamResponse(
    const v1::ClassifyStreamRequest& request,
    const absl::StatusOr<ClassifyAnswer>& answer) {
  v1::ClassifyStreamResponse response;
  response.set_item_id(request.item_id());
  if (!answer.ok()) {
    *response.mutable_result()->mutable_error() = ToRpcStatus(answer.status());
    return response;
  }
  const v1::Model& model = answer->servable->model;
  *response.mutable_result() =
      ToResult(model, request.top_k(), answer->outcome.images.at(0));
  if (!response.result().has_error()) *response.mutable_model() = model.ref();
  return response;
}

}  // namespace finetune
