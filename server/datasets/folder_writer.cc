#include "server/datasets/folder_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr int kFileFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;

absl::Status MakeError(int error) {
  if (error == EEXIST || error == ENOTDIR || error == ELOOP) {
    return absl::InvalidArgumentError(
        "comes twice, or once as a file and once as a folder");
  }
  return absl::ErrnoToStatus(error, "cannot be created");
}

}  // namespace

absl::StatusOr<std::unique_ptr<FolderWriter>> FolderWriter::Open(
    const std::filesystem::path& root) {
  const int fd = open(root.c_str(), kFolderFlags);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("open ", root.native()));
  }
  return std::unique_ptr<FolderWriter>(new FolderWriter(fd));
}

FolderWriter::~FolderWriter() {
  for (const Folder& folder : open_) close(folder.fd);
  close(root_);
}

absl::StatusOr<int> FolderWriter::Enter(const PathParts& path, size_t depth) {
  size_t common = 0;
  while (common < open_.size() && common < depth &&
         open_[common].name == path[common]) {
    ++common;
  }
  for (; open_.size() > common; open_.pop_back()) close(open_.back().fd);
  while (open_.size() < depth) {
    const std::string& name = path[open_.size()];
    const int parent = open_.empty() ? root_ : open_.back().fd;
    if (mkdirat(parent, name.c_str(), 0755) == 0) {
      ++folders_;
    } else if (errno != EEXIST) {
      return MakeError(errno);
    }
    const int fd = openat(parent, name.c_str(), kFolderFlags);
    if (fd < 0) return MakeError(errno);
    open_.push_back({name, fd});
  }
  return open_.empty() ? root_ : open_.back().fd;
}

absl::StatusOr<int> FolderWriter::CreateFile(const PathParts& path) {
  ASSIGN_OR_RETURN(const int folder, Enter(path, path.size() - 1));
  const int fd = openat(folder, path.back().c_str(), kFileFlags, 0644);
  if (fd < 0) return MakeError(errno);
  return fd;
}

absl::Status FolderWriter::MakeFolder(const PathParts& path) {
  return Enter(path, path.size()).status();
}

}  // namespace finetune
