// Everything that comes over the wire is checked here, and nowhere else: what
// passes is within the ranges that the .proto files state.

#ifndef SERVER_SERVICE_CONVERT_H_
#define SERVER_SERVICE_CONVERT_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "finetune/v1/inference_service.pb.h"
#include "finetune/v1/training_service.pb.h"
#include "server/inference/batcher.h"
#include "server/jobs/scheduler.h"

namespace finetune {

struct ClassifyLimits {
  int max_images = 64;                  // In one request.
  uint64_t max_image_bytes = 16 << 20;  // Each, encoded.
};

// Resolves the data set and every default; draws the seed.
//
// INVALID_ARGUMENT with BadRequest; PERMISSION_DENIED if `dataset` is outside
// of `data_root`, links resolved; NOT_FOUND if it is no folder there.
absl::StatusOr<JobRequest> ToJobRequest(const v1::StartFineTuneRequest& request,
                                        const std::filesystem::path& data_root);

// INVALID_ARGUMENT with BadRequest if a field is out of its range.
absl::Status CheckClassifyRequest(const v1::ClassifyRequest& request,
                                  const ClassifyLimits& limits);

// `top_k` as in the request. REQUIRES: the outcome is of the servable's
// classes.
v1::ClassifyResponse ToClassifyResponse(const v1::Model& model, int top_k,
                                        const ClassifyOutcome& outcome);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_H_
