#include "server/service/download_reactor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "server/model/registry.h"

namespace finetune {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

}  // namespace

DownloadReactor::DownloadReactor(grpc::CallbackServerContext& context,
                                 std::atomic<int>& downloads,
                                 absl::Duration timeout)
    : context_(context), downloads_(downloads) {
  alarm_.Set(
      std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout),
      [this](bool expired) { OnTimeout(expired); });
}

DownloadReactor::~DownloadReactor() {
  if (file_ >= 0) close(file_);
}

void DownloadReactor::Send(const v1::ModelRef& ref,
                           const absl::StatusOr<std::filesystem::path>& file,
                           const std::string& sha256) {
  const absl::Status opened = file.ok() ? Open(*file) : file.status();
  if (absl::IsNotFound(opened)) {  // Deleted a moment ago.
    return End(NoSuchResourceError("model", ModelRefText(ref)));
  }
  if (!opened.ok()) return End(opened);
  expected_sha256_ = sha256;
  SendNext();
}

absl::Status DownloadReactor::Open(const std::filesystem::path& file) {
  file_ = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file_ < 0 || fstat(file_, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("open ", file.native()));
  }
  response_.set_total_bytes(info.st_size);
  return absl::OkStatus();
}

void DownloadReactor::SendNext() {
  const absl::StatusOr<bool> is_more = ReadChunk();
  if (!is_more.ok()) return End(is_more.status());
  if (*is_more) return StartWrite(&response_);
  const std::string sha256 = sha256_.Hex();
  if (!expected_sha256_.empty() && sha256 != expected_sha256_) {
    return End(absl::DataLossError("the file is damaged on the server's disk"));
  }
  response_.set_sha256(sha256);
  End(absl::OkStatus());
}

absl::StatusOr<bool> DownloadReactor::ReadChunk() {
  std::string& chunk = *response_.mutable_chunk();
  chunk.resize(kChunkBytes);
  ssize_t size = 0;
  do {
    size = read(file_, chunk.data(), chunk.size());
  } while (size < 0 && errno == EINTR);
  if (size < 0) return absl::ErrnoToStatus(errno, "read the model's file");
  chunk.resize(static_cast<size_t>(size));
  sha256_.Add(chunk);
  return size > 0;
}

void DownloadReactor::OnWriteDone(bool ok) {
  if (!ok) return End(absl::CancelledError("the caller went away"));
  response_.clear_total_bytes();
  SendNext();
}

void DownloadReactor::End(const absl::Status& status) {
  --downloads_;  // Before the answer: who has it may begin the next.
  if (status.ok()) {
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    Finish(ToGrpcStatus(status));
  }
}

void DownloadReactor::OnTimeout(bool expired) {
  if (expired) {
    const MutexLock lock(mu_);
    if (!done_) context_.TryCancel();
  }
  Release();
}

void DownloadReactor::OnDone() {
  {
    const MutexLock lock(mu_);
    done_ = true;
  }
  alarm_.Cancel();
  Release();
}

void DownloadReactor::Release() {
  if (--users_ == 0) delete this;
}

}  // namespace finetune
