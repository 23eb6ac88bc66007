#include "server/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

uint64_t BytesBelow(const std::filesystem::path& dir) {
  uint64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(dir, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code vanished;
    const bool is_file = it->is_regular_file(vanished);
    // A checkpoint's best weights are links to those of another.
    const uint64_t size =
        is_file ? it->file_size(vanished) / it->hard_link_count(vanished) : 0;
    if (!vanished) bytes += size;
  }
  return bytes;
}

// Photos, models and the database are nobody else's, in a folder that was there
// before as in one that MakeFolders made. One that all users share (/tmp)
// stays.
void MakePrivate(const std::filesystem::path& folder) {
  constexpr mode_t kOthers = 077;
  struct stat info;
  if (stat(folder.c_str(), &info) != 0 || (info.st_mode & kOthers) == 0) return;
  const mode_t mode = info.st_mode & 07777 & ~kOthers;
  const bool is_shared = (info.st_mode & S_ISVTX) != 0;
  if (!is_shared && chmod(folder.c_str(), mode) == 0) return;
  spdlog::warn(
      "other users of this machine can open the state folder {}: chmod 700",
      folder.native());
}

}  // namespace

// Keeps other servers away while it lives.
class StateFolder::Lock {
 public:
  static absl::StatusOr<std::shared_ptr<Lock>> Take(
      const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "lock";
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("open ", path.native()));
    }
    auto lock = std::make_shared<Lock>(fd);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return lock;
    return absl::FailedPreconditionError(absl::StrCat(
        "another finetuned uses the state folder ", folder.native()));
  }

  explicit Lock(int fd) : fd_(fd) {}
  ~Lock() { close(fd_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  const int fd_;
};

absl::StatusOr<std::unique_ptr<StateFolder>> StateFolder::Open(
    const std::filesystem::path& path, const StateLimits& limits) {
  RETURN_IF_ERROR(MakeFolders(path));
  MakePrivate(path);
  auto folder = std::unique_ptr<StateFolder>(new StateFolder(path, limits));
  ASSIGN_OR_RETURN(folder->lock_, Lock::Take(path));
  ASSIGN_OR_RETURN(folder->database_, Database::Open(path / "finetuned.db"));
  ASSIGN_OR_RETURN(folder->jobs_, JobStore::Open(*folder->database_));
  ASSIGN_OR_RETURN(folder->models_,
                   ModelRegistry::Open(path / "models", *folder->database_));
  DatasetStore::Options datasets{.dir = path / "datasets"};
  if (limits.max_bytes > 0) datasets.max_total_bytes = limits.max_bytes;
  if (limits.max_upload_bytes > 0) {
    datasets.limits.max_total_bytes = limits.max_upload_bytes;
  }
  ASSIGN_OR_RETURN(folder->datasets_,
                   DatasetStore::Open(datasets, *folder->database_));
  return folder;
}

absl::Status StateFolder::CheckRoom() const {
  if (limits_.max_bytes == 0) return absl::OkStatus();
  const uint64_t used =
      BytesBelow(path_ / "jobs") + BytesBelow(path_ / "models");
  if (used < limits_.max_bytes) return absl::OkStatus();
  return RetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(
          "the state folder holds ", used, " bytes, at the limit of ",
          limits_.max_bytes, " (--max_state_bytes)")),
      absl::Minutes(1));
}

}  // namespace finetune
