// Any bytes leave plain files below the folder, within the limits, and nothing
// elsewhere.

#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "common/testing/temp_dir.h"
#include "server/datasets/archive_unpacker.h"

namespace finetune {
namespace {

constexpr UnpackLimits kLimits = {.max_total_bytes = 1 << 20,
                                  .max_file_bytes = 256 << 10,
                                  .max_files = 64,
                                  .ratio_slack = 64 << 10};

// The bytes in pieces, whose size the first byte chooses.
ReadFn PiecesOf(absl::string_view bytes) {
  const size_t piece = bytes.empty() ? 1 : 1 + 16 * uint8_t(bytes[0]);
  return [bytes, piece]() mutable -> absl::StatusOr<absl::string_view> {
    const absl::string_view next = bytes.substr(0, piece);
    bytes.remove_prefix(next.size());
    return next;
  };
}

void CheckTree(const std::filesystem::path& dir) {
  uint64_t bytes = 0;
  int64_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    if (entry.is_symlink()) abort();
    if (!entry.is_directory() && !entry.is_regular_file()) abort();
    if (entry.is_regular_file()) bytes += entry.file_size();
    ++files;
  }
  if (bytes > kLimits.max_total_bytes + kLimits.max_file_bytes) abort();
  if (files > kLimits.max_files + 33) abort();  // With its folders, the last.
}

}  // namespace
}  // namespace finetune

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const finetune::testing::TempDir dir;
  const std::filesystem::path in = dir.path() / "in";
  std::filesystem::create_directory(in);
  finetune::UnpackArchive(
      finetune::PiecesOf({reinterpret_cast<const char*>(data), size}), in,
      finetune::kLimits)
      .status()
      .IgnoreError();
  finetune::CheckTree(in);
  for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
    if (entry.path() != in) abort();
  }
  return 0;
}
