#include "server/datasets/upload.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/util/time_util.h"
#include "server/data/image_folder.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxWaiting = 4;  // Chunks.

absl::StatusOr<fs::path> MakeQuarantine(const fs::path& incoming) {
  std::string path = (incoming / ".incoming-XXXXXX").native();
  if (mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, "make a folder for the upload");
  }
  return fs::path(path);
}

// `dir`, or the only folder in it where that has no train/.
absl::StatusOr<fs::path> TopOf(const fs::path& dir) {
  fs::path only;
  int folders = 0;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    if (!it->is_directory(error) || error) continue;
    if (it->path().filename() == "train") return dir;
    only = it->path();
    ++folders;
  }
  if (error) return absl::ErrnoToStatus(error.value(), "list the upload");
  return folders == 1 ? only : dir;
}

// The check's message names the folder, which the caller knows nothing of.
absl::Status CheckDataset(const fs::path& dir, const std::string& name) {
  const absl::Status status = OpenImageFolder(dir).status();
  if (!absl::IsFailedPrecondition(status)) return status;
  return PreconditionError(
      "DATASET", name,
      absl::StrReplaceAll(status.message(),
                          {{absl::StrCat(dir.filename().native(), ": "),
                            absl::StrCat(name, ": ")}}));
}

absl::Status SyncFileSystem(const fs::path& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "open the upload");
  const absl::Cleanup closing = [fd] { close(fd); };
  if (syncfs(fd) != 0) return absl::ErrnoToStatus(errno, "sync the upload");
  return absl::OkStatus();
}

}  // namespace

Upload::Upload(Options options, Callbacks callbacks, PublishFn publish)
    : options_(std::move(options)),
      callbacks_(std::move(callbacks)),
      publish_(std::move(publish)),
      thread_([this] { Run(); }) {}

Upload::~Upload() { Cancel(absl::CancelledError("the upload was given up")); }

bool Upload::Add(std::string chunk) {
  const MutexLock lock(mu_);
  waiting_.push_back(std::move(chunk));
  wants_room_ = waiting_.size() >= kMaxWaiting;
  return !wants_room_;
}

void Upload::Finish() {
  const MutexLock lock(mu_);
  finished_ = true;
}

void Upload::Cancel(absl::Status why) {
  const MutexLock lock(mu_);
  if (cancelled_.ok()) cancelled_ = std::move(why);
}

void Upload::Run() {
  const absl::StatusOr<fs::path> quarantine = MakeQuarantine(options_.incoming);
  if (!quarantine.ok()) return callbacks_.on_end(quarantine.status());
  absl::StatusOr<v1::Dataset> dataset = Receive(*quarantine);
  std::error_code ignored;  // What stays is removed at the next start.
  fs::remove_all(*quarantine, ignored);
  callbacks_.on_end(std::move(dataset));
}

absl::StatusOr<absl::string_view> Upload::NextChunk() {
  bool tell = false;
  {
    const MutexLock lock(mu_);
    const bool came = mu_.AwaitFor(options_.idle_timeout, [this] {
      return !waiting_.empty() || finished_ || !cancelled_.ok();
    });
    RETURN_IF_ERROR(cancelled_);
    if (!came) {
      return absl::DeadlineExceededError(absl::StrCat(
          "nothing came for ", absl::FormatDuration(options_.idle_timeout),
          "; the upload was given up"));
    }
    if (waiting_.empty()) return absl::string_view();
    chunk_ = std::move(waiting_.front());
    waiting_.pop_front();
    tell = std::exchange(wants_room_, false);
  }
  if (tell) callbacks_.on_room();
  sha256_.Add(chunk_);
  received_ += chunk_.size();
  if (received_ > options_.limits.max_total_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the archive has more than ",
                     options_.limits.max_total_bytes, " bytes"));
  }
  return absl::string_view(chunk_);
}

absl::Status Upload::CheckSha256() {
  absl::string_view rest;
  do {  // What follows the archive's end counts, too.
    ASSIGN_OR_RETURN(rest, NextChunk());
  } while (!rest.empty());
  const std::string actual = sha256_.Hex();
  if (actual == options_.sha256) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the archive arrived with the SHA-256 ", actual,
                   ", but was announced with ", options_.sha256,
                   ": it changed meanwhile or was damaged; send it again"));
}

absl::StatusOr<v1::Dataset> Upload::Receive(const fs::path& quarantine) {
  // Not the quarantine itself, which nobody else may read.
  const fs::path dir = quarantine / "upload";
  std::error_code error;
  if (!fs::create_directory(dir, error)) {
    return absl::ErrnoToStatus(error.value(), "make a folder for the upload");
  }
  ASSIGN_OR_RETURN(
      const UnpackResult unpacked,
      UnpackArchive([this] { return NextChunk(); }, dir, options_.limits));
  RETURN_IF_ERROR(CheckSha256());
  ASSIGN_OR_RETURN(const fs::path top, TopOf(dir));
  RETURN_IF_ERROR(CheckDataset(top, options_.name));
  RETURN_IF_ERROR(SyncFileSystem(top));

  v1::Dataset dataset;
  dataset.set_id(options_.sha256);
  dataset.set_name(options_.name);
  dataset.set_files(unpacked.files);
  dataset.set_bytes(unpacked.bytes);
  *dataset.mutable_create_time() =
      google::protobuf::util::TimeUtil::GetCurrentTime();
  return publish_(top, dataset);
}

}  // namespace finetune
