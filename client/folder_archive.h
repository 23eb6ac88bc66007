// A data set folder as a tar archive, packed on the fly.

#ifndef CLIENT_FOLDER_ARCHIVE_H_
#define CLIENT_FOLDER_ARCHIVE_H_

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

// Something that the archive holds.
struct FolderEntry {
  std::string name;  // In the archive, such as "train/bee/1.jpg".
  std::filesystem::path path;
  bool is_folder = false;
};

// What a server would see in the folder: the classes of train/ and of test/, or
// of val/ where there is no test/, and all files below them, sorted. Links to
// class folders and to files are followed; names that begin with a dot are left
// out.
//
// FAILED_PRECONDITION if there is no train/, or neither test/ nor val/; or the
// file system's error.
absl::StatusOr<std::vector<FolderEntry>> ListFolder(
    const std::filesystem::path& folder);

// Takes the archive's next bytes; an error ends the packing.
using SinkFn = std::function<absl::Status(absl::string_view bytes)>;

// Packs the entries, uncompressed. Equal names and contents give equal bytes:
// nothing of owners, modes or times goes in.
//
// ABORTED if a file changed its size meanwhile; the sink's error, or that of
// the file system.
absl::Status PackFolder(const std::vector<FolderEntry>& entries,
                        const SinkFn& sink);

}  // namespace finetune

#endif  // CLIENT_FOLDER_ARCHIVE_H_
