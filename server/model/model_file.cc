#include "server/model/model_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "google/protobuf/util/json_util.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxJsonBytes = 16 << 20;
constexpr size_t kPieceBytes = 1 << 20;

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

absl::Status CheckWeightsFile(const fs::path& dir, const v1::Model& model) {
  if (model.weights_sha256().empty()) return absl::OkStatus();
  const fs::path path = dir / kWeightsFile;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("open ", path.native()));
  }
  const absl::Cleanup close_it = [fd] { close(fd); };
  Sha256 sha256;
  std::string piece(kPieceBytes, '\0');
  while (true) {
    const ssize_t size = read(fd, piece.data(), piece.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("read ", path.native()));
    }
    if (size == 0) break;
    sha256.Add(absl::string_view(piece).substr(0, size));
  }
  if (sha256.Hex() == model.weights_sha256()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      path.native(), " is damaged: its SHA-256 is not the one recorded"));
}

std::string ModelRefText(const v1::ModelRef& ref) {
  return ref.version() == 0 ? ref.name()
                            : absl::StrCat(ref.name(), "@", ref.version());
}

}  // namespace finetune
