// TrainingService's messages: all that comes over the wire is checked here, and
// nowhere else: what passes is within the ranges that the .proto file states.

#ifndef SERVER_SERVICE_CONVERT_TRAINING_H_
#define SERVER_SERVICE_CONVERT_TRAINING_H_

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "finetune/v1/training_service.pb.h"
#include "server/jobs/job_runner.h"

namespace finetune {

struct UploadedDataset {
  std::filesystem::path dir;
  std::string name;
};

// The uploaded data set of that id, or NOT_FOUND.
using FindUploadFn =
    std::function<absl::StatusOr<UploadedDataset>(const std::string& id)>;

// What names the request among others: request_id, if any, and the digest of
// the whole. INVALID_ARGUMENT with BadRequest.
absl::StatusOr<JobOrigin> ToOrigin(const v1::StartFineTuneRequest& request);

// Resolves the data set and every default; draws the seed.
//
// INVALID_ARGUMENT with BadRequest; PERMISSION_DENIED if `dataset` is outside
// of `data_root`, links resolved; NOT_FOUND if it is neither a folder there nor
// an uploaded data set.
absl::StatusOr<JobRequest> ToJobRequest(const v1::StartFineTuneRequest& request,
                                        const std::filesystem::path& data_root,
                                        const FindUploadFn& find_upload);

struct ListQuery {
  std::vector<v1::JobState> states;
  int page_size;
  std::string token;
};

// INVALID_ARGUMENT with BadRequest.
absl::StatusOr<ListQuery> ToListQuery(const v1::ListFineTunesRequest& request);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_TRAINING_H_
