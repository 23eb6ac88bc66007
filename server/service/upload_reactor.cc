#include "server/service/upload_reactor.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxChunkBytes = 1 << 20;
constexpr absl::Duration kRetryDelay = absl::Seconds(30);

absl::Status CheckHeader(const v1::UploadHeader& header) {
  if (header.name().empty() || header.name().size() > kMaxNameBytes) {
    return InvalidFieldError("header.name", absl::StrCat("1..255 bytes, not ",
                                                         header.name().size()));
  }
  if (!IsDatasetId(absl::AsciiStrToLower(header.sha256()))) {
    return InvalidFieldError("header.sha256", "64 hexadecimal digits");
  }
  return absl::OkStatus();
}

absl::Status GoneError() {
  return absl::CancelledError("the caller went away");
}

}  // namespace

UploadReactor::UploadReactor(DatasetStore& store, std::atomic<int>& uploads,
                             int max_uploads, absl::Duration header_timeout,
                             v1::UploadDatasetResponse* response)
    : store_(store),
      uploads_(uploads),
      max_uploads_(max_uploads),
      response_(response) {
  header_alarm_.Set(std::chrono::system_clock::now() +
                        absl::ToChronoMilliseconds(header_timeout),
                    [this](bool expired) { OnHeaderAlarm(expired); });
  StartRead(&request_);
}

void UploadReactor::OnReadDone(bool ok) {
  Upload* upload = nullptr;
  bool is_first = false;
  {
    const MutexLock lock(mu_);
    upload = upload_.get();
    is_first = !std::exchange(header_came_, true);
  }
  if (is_first) {
    header_alarm_.Cancel();
    const absl::Status begun = Begin(ok);
    if (!begun.ok()) End(begun, false);
  } else if (upload == nullptr) {
    return;  // It has been answered.
  } else if (ok) {
    AddChunk(*upload);
  } else {
    upload->Finish();  // Or OnCancel comes as well.
  }
}

absl::Status UploadReactor::Begin(bool came) {
  if (!came || !request_.has_header()) {
    return InvalidFieldError("header", "the first message of an upload");
  }
  const v1::UploadHeader& header = request_.header();
  RETURN_IF_ERROR(CheckHeader(header));
  const std::string sha256 = absl::AsciiStrToLower(header.sha256());
  const absl::StatusOr<v1::Dataset> known = store_.Find(sha256);
  if (known.ok()) {
    End(known, true);
    return absl::OkStatus();
  }
  if (!absl::IsNotFound(known.status())) return known.status();
  RETURN_IF_ERROR(TakeSlot());
  ASSIGN_OR_RETURN(
      std::unique_ptr<Upload> upload,
      store_.BeginUpload(
          header.name(), sha256,
          {.on_room = [this] { ReadNext(); },
           .on_end = [this](const auto& dataset) { End(dataset, false); }}));
  {
    const MutexLock lock(mu_);
    upload_ = std::move(upload);
    if (cancelled_) upload_->Cancel(GoneError());
  }
  ReadNext();
  return absl::OkStatus();
}

absl::Status UploadReactor::TakeSlot() {
  const MutexLock lock(mu_);
  has_slot_ = true;
  if (++uploads_ <= max_uploads_) return absl::OkStatus();
  return RetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                        max_uploads_, " uploads go on, as many as may")),
                    kRetryDelay);
}

void UploadReactor::AddChunk(Upload& upload) {
  std::string& chunk = *request_.mutable_chunk();
  if (chunk.empty() || chunk.size() > kMaxChunkBytes) {
    return upload.Cancel(InvalidFieldError(
        "chunk", absl::StrCat("1..", kMaxChunkBytes,
                              " bytes, in each message after the first")));
  }
  if (upload.Add(std::move(chunk))) ReadNext();
}

void UploadReactor::ReadNext() {
  const MutexLock lock(mu_);
  if (!finished_) StartRead(&request_);
}

void UploadReactor::OnCancel() {
  const MutexLock lock(mu_);
  cancelled_ = true;
  if (upload_ != nullptr) return upload_->Cancel(GoneError());
  if (!header_came_) FinishOnce(GoneError());
}

void UploadReactor::End(const absl::StatusOr<v1::Dataset>& dataset,
                        bool existed) {
  const MutexLock lock(mu_);
  if (finished_) return;
  if (dataset.ok()) {
    *response_->mutable_dataset() = *dataset;
    response_->set_existed(existed);
  }
  FinishOnce(dataset.status());
}

void UploadReactor::FinishOnce(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  // Before the answer: who has it may begin the next upload.
  if (std::exchange(has_slot_, false)) --uploads_;
  Finish(ToGrpcStatus(status));
}

void UploadReactor::OnHeaderAlarm(bool expired) {
  if (expired) {
    const MutexLock lock(mu_);
    if (!header_came_) {
      FinishOnce(absl::DeadlineExceededError("no header came in time"));
    }
  }
  Release();
}

void UploadReactor::OnDone() {
  std::unique_ptr<Upload> upload;
  {
    const MutexLock lock(mu_);
    upload = std::move(upload_);
  }
  upload.reset();  // It has ended; its thread may take mu_ a last time.
  header_alarm_.Cancel();
  Release();
}

void UploadReactor::Release() {
  if (--users_ == 0) delete this;
}

}  // namespace finetune
