// ModelService's messages, and what names a model in others: all that comes
// over the wire is checked here, and nowhere else.
//
// INVALID_ARGUMENT with BadRequest if a field is out of the range that the
// .proto file states.

#ifndef SERVER_SERVICE_CONVERT_MODEL_H_
#define SERVER_SERVICE_CONVERT_MODEL_H_

#include "absl/status/status.h"
#include "finetune/v1/model_service.pb.h"

namespace finetune {

// The field `model` of a request: nothing, a name, or a name and a version.
absl::Status CheckModelRef(const v1::ModelRef& model);

// The same where name and version must be there.
absl::Status CheckModelVersion(const v1::ModelRef& model);

// All but the page token, which is the registry's to know.
absl::Status CheckListModelsRequest(const v1::ListModelsRequest& request);

absl::Status CheckDownloadModelRequest(const v1::DownloadModelRequest& request);

}  // namespace finetune

#endif  // SERVER_SERVICE_CONVERT_MODEL_H_
