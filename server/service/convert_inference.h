// InferenceService's messages: all that comes over the wire is checked here,
// and nowhere else: what passes is within the ranges that the .proto file
// states.

#ifndef SERVER_SERVICE_CONVERT_INFERENCE_H_
#define SERVER_SERVICE_CONVERT_INFERENCE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "finetune/v1/inference_service.pb.h"
#include "server/inference/batcher.h"

namespace finetune {

struct ClassifyLimits {
  int max_images = 64;                  // In one request.
  uint64_t max_image_bytes = 16 << 20;  // Each, encoded.
};

// INVALID_ARGUMENT with BadRequest if a field is out of its range.
absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request,
                                  const ClassifyLimits& limits);

// `top_k` as in the request. REQUIRES: the outcome is of the servable's
// classes.
v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_INFERENCE_H_
