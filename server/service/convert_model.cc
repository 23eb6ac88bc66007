#include "server/service/convert_model.h"

#include "absl/strings/str_cat.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "server/service/names.h"

namespace finetune {
namespace {

constexpr char kNameRange[] = "1..63 of a-z, 0-9 and '-'";
constexpr size_t kMaxTokenBytes = 128;

}  // namespace

absl::Status CheckModelRef(const v1::ModelRef& model) {
  if (!model.name().empty() && !IsModelName(model.name())) {
    return InvalidFieldError("model.name", kNameRange);
  }
  if (model.version() < 0) {
    return InvalidFieldError("model.version", "0 or above");
  }
  if (model.version() > 0 && model.name().empty()) {
    return InvalidFieldError("model.name", "given where model.version is");
  }
  return absl::OkStatus();
}

absl::Status CheckModelVersion(const v1::ModelRef& model) {
  if (!IsModelName(model.name())) {
    return InvalidFieldError("model.name", kNameRange);
  }
  if (model.version() < 1) {
    return InvalidFieldError("model.version", "1 or above");
  }
  return absl::OkStatus();
}

absl::Status CheckListModelsRequest(const v1::ListModelsRequest& request) {
  if (!request.name().empty() && !IsModelName(request.name())) {
    return InvalidFieldError("name", absl::StrCat(kNameRange, ", or empty"));
  }
  if (request.page_token().size() > kMaxTokenBytes) {
    return InvalidFieldError("page_token", "one that this server gave");
  }
  return absl::OkStatus();
}

absl::Status CheckDownloadModelRequest(
    const v1::DownloadModelRequest& request) {
  if (!v1::ModelFormat_IsValid(request.format())) {
    return InvalidFieldError(
        "format", absl::StrCat("a ModelFormat, not ", int{request.format()}));
  }
  return CheckModelRef(request.model());
}

}  // namespace finetune
