#include "common/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

absl::Status ErrnoError(int error, absl::string_view verb,
                        const std::filesystem::path& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(verb, " ", path.native()));
}

absl::Status WriteAndSync(const std::filesystem::path& path,
                          absl::string_view content) {
  const int fd =
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoError(errno, "create", path);
  absl::Status written = WriteAll(fd, content, path);
  if (written.ok() && fsync(fd) != 0) written = ErrnoError(errno, "sync", path);
  if (close(fd) != 0 && written.ok()) {
    written = ErrnoError(errno, "close", path);
  }
  return written;
}

absl::Status SyncFolder(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "open", path);
  const absl::Cleanup closing = [fd] { close(fd); };
  if (fsync(fd) != 0) return ErrnoError(errno, "sync", path);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteAll(int fd, absl::string_view content,
                      const std::filesystem::path& path) {
  while (!content.empty()) {
    const ssize_t n = write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(errno, "write", path);
    content.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path,
                                     uint64_t max_bytes) {
  // Non-blocking, so that a pipe in place of a file cannot hang the caller.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoError(errno, "open", path);
  const absl::Cleanup closing = [fd] { close(fd); };
  struct stat info;
  if (fstat(fd, &info) != 0) return ErrnoError(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.native(), " is not a file"));
  }
  if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.native(), " holds ", info.st_size,
                     " bytes, more than the limit of ", max_bytes));
  }
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = read(fd, content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(errno, "read", path);
    if (n == 0) break;  // Shrunk meanwhile.
    done += static_cast<size_t>(n);
  }
  content.resize(done);
  return content;
}

absl::Status WriteFileAtomically(const std::filesystem::path& path,
                                 absl::string_view content) {
  const std::filesystem::path temporary = path.native() + ".tmp";
  absl::Status status = WriteAndSync(temporary, content);
  if (status.ok()) status = RenameDurably(temporary, path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status RenameDurably(const std::filesystem::path& from,
                           const std::filesystem::path& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoError(errno, absl::StrCat("rename ", from.native(), " to"), to);
  }
  RETURN_IF_ERROR(SyncFolder(to.parent_path()));
  if (from.parent_path() != to.parent_path()) {
    return SyncFolder(from.parent_path());
  }
  return absl::OkStatus();
}

bool IsWithin(const std::filesystem::path& path,
              const std::filesystem::path& folder) {
  return std::mismatch(folder.begin(), folder.end(), path.begin(), path.end())
             .first == folder.end();
}

absl::Status MakeFolders(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return ErrnoError(error.value(), "make folder", path);
  return absl::OkStatus();
}

}  // namespace finetune
