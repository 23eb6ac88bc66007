// Files and folders made below one folder, and nowhere else.

#ifndef SERVER_DATASETS_FOLDER_WRITER_H_
#define SERVER_DATASETS_FOLDER_WRITER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace finetune {

// The parts of a relative path; none is empty, "." or ".." or has a '/'.
using PathParts = std::vector<std::string>;

// Works with descriptors of folders that it opened itself: it follows no link
// and replaces nothing, whatever the names are. Missing folders on the way are
// made. Not thread-safe.
//
// Errors: INVALID_ARGUMENT if there is something of that name that is in the
// way; else the file system's, without the path, such as RESOURCE_EXHAUSTED for
// a full disk.
class FolderWriter {
 public:
  static absl::StatusOr<std::unique_ptr<FolderWriter>> Open(
      const std::filesystem::path& root);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  // A new file, mode 0644, open for writing; the caller closes it.
  // REQUIRES: at least one part.
  absl::StatusOr<int> CreateFile(const PathParts& path);

  // Mode 0755. A folder that is there already is fine.
  absl::Status MakeFolder(const PathParts& path);

  // How many were made.
  int64_t folders() const { return folders_; }

 private:
  struct Folder {
    std::string name;
    int fd;
  };

  explicit FolderWriter(int root) : root_(root) {}

  // Descriptor of the folder that the first `depth` parts name.
  absl::StatusOr<int> Enter(const PathParts& path, size_t depth);

  const int root_;
  std::vector<Folder> open_;  // The folder entered last, and those above it.
  int64_t folders_ = 0;
};

}  // namespace finetune

#endif  // SERVER_DATASETS_FOLDER_WRITER_H_
