// InferenceService's messages: all that comes over the wire is checked here,
// and nowhere else: what passes is within the ranges that the .proto file
// states.

#ifndef SERVER_SERVICE_CONVERT_INFERENCE_H_
#define SERVER_SERVICE_CONVERT_INFERENCE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "finetune/v1/inference_service.pb.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"

namespace finetune {

inline constexpr int kMaxTopK = 1000;  // Scores that a caller may ask for.

struct ClassifyLimits {
  int max_images = 64;                  // In one request.
  uint64_t max_image_bytes = 16 << 20;  // Each, encoded.
  int max_stream_items = 64;            // Images and answers of a stream, >= 1.
};

// INVALID_ARGUMENT with BadRequest if a field is out of its range.
absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request,
                                  const ClassifyLimits& limits);

// The same for all of a stream's message but the image: what is wrong with that
// is the image's own error.
absl::Status CheckClassifyStreamRequest(
    const v1::ClassifyStreamRequest& request);

// INVALID_ARGUMENT with BadRequest, for `field`, if an encoded image is empty
// or too large.
absl::Status CheckImage(absl::string_view field, absl::string_view image,
                        const ClassifyLimits& limits);

// `top_k` as in the request. REQUIRES: the outcome is of the servable's
// classes.
v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome);

// What a stream says of one image. REQUIRES: an OK answer has one image.
v1::ClassifyStreamResponse ToClassifyStreamResponse(
    const v1::ClassifyStreamRequest& request,
    const absl::StatusOr<ClassifyAnswer>& answer);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_INFERENCE_H_
