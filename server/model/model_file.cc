#include "server/model/model_file.h"

#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "google/protobuf/util/json_util.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJsonBytes = 16 << 20;

}  // namespace

absl::Status WriteModelFile(const fs::path& dir, const v1::Model& model) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed =
      google::protobuf::util::MessageToJsonString(model, &json, options);
  if (!printed.ok()) return absl::InternalError(printed.ToString());
  return WriteFileAtomically(dir / kModelFile, json);
}

absl::StatusOr<v1::Model> ReadModelFile(const fs::path& dir) {
  ASSIGN_OR_RETURN(const std::string json,
                   ReadFile(dir / kModelFile, kMaxJsonBytes));
  v1::Model model;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &model);
  if (!parsed.ok()) {
    return absl::DataLossError(
        absl::StrCat((dir / kModelFile).native(), ": ", parsed.ToString()));
  }
  RETURN_IF_ERROR(CheckModelFiles(dir));
  model.clear_promoted();
  return model;
}

absl::Status CheckModelFiles(const fs::path& dir) {
  std::error_code ignored;
  for (const char* file : {kModelFile, kWeightsFile}) {
    if (fs::is_regular_file(dir / file, ignored)) continue;
    return absl::DataLossError(absl::StrCat(dir.native(), " holds no ", file));
  }
  return absl::OkStatus();
}

std::string ModelRefText(const v1::ModelRef& ref) {
  return ref.version() == 0 ? ref.name()
                            : absl::StrCat(ref.name(), "@", ref.version());
}

}  // namespace finetune
