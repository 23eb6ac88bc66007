// Whole files, read with a bound and written so that a reader, or a machine
// that lost power, finds the old content or the new and nothing between.
//
// Thread-safe on different paths. Errors name the path and carry the code that
// absl::ErrnoToStatus gives: NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED
// for a full disk, ...

#ifndef COMMON_FILE_H_
#define COMMON_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

// INVALID_ARGUMENT if the file holds more than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     uint64_t max_bytes);

// Writes all of `content` to `fd`, a file that errors call `path`.
absl::Status WriteAll(int fd, absl::string_view content,
                      const std::filesystem::path& path);

// Writes `path`.tmp, syncs it, renames it to `path` and syncs the folder.
// On error the temporary is removed and `path` is as it was.
absl::Status WriteFileAtomically(const std::filesystem::path& path,
                                 absl::string_view content);

// Renames and makes both folders durable. Replaces `to` only when it is a file
// or an empty folder; else ALREADY_EXISTS or FAILED_PRECONDITION.
absl::Status RenameDurably(const std::filesystem::path& from,
                           const std::filesystem::path& to);

// Whether `path` is `folder` or below it, by their letters: both absolute,
// without links and dots.
bool IsWithin(const std::filesystem::path& path,
              const std::filesystem::path& folder);

// mkdir -p.
absl::Status MakeFolders(const std::filesystem::path& path);

}  // namespace finetune

#endif  // COMMON_FILE_H_
