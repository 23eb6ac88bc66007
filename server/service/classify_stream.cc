#include "server/service/classify_stream.h"

#include <chrono>
#include <utility>

#include "common/grpc_status.h"
#include "common/rpc_status.h"

namespace finetune {
namespace {

// Beyond it no image is read, so that a stream holds little more than the
// largest Classify request may.
constexpr size_t kMaxImageBytes = 64 << 20;
// Where a full queue does not say when to try again.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

}  // namespace

ClassifyStream::ClassifyStream(Classifier& classifier,
                               const ClassifyLimits& limits,
                               absl::Time deadline, OverFn on_over)
    : classifier_(classifier),
      limits_(limits),
      deadline_(deadline),
      on_over_(std::move(on_over)) {
  const MutexLock lock(mu_);
  Advance();
}

void ClassifyStream::ShutDown() {
  const MutexLock lock(mu_);
  GiveUp(ShuttingDownError(), false);
  Advance();
}

void ClassifyStream::OnReadDone(bool ok) {
  {
    const MutexLock lock(mu_);
    reading_ = false;
    if (!ok && !ending_.has_value())
      ending_ = absl::OkStatus();  // Half-closed.
    if (!ending_.has_value()) Take(std::move(request_));
  }
  Pump();
}

void ClassifyStream::Take(v1::ClassifyStreamRequest request) {
  const absl::Status checked = CheckClassifyStreamRequest(request);
  if (!checked.ok()) {
    ending_ = checked;
    return;
  }
  const absl::Status image = CheckImage("image", request.image(), limits_);
  if (!image.ok()) {
    answers_.push_back(ToClassifyStreamResponse(request, image));
    return;
  }
  image_bytes_ += request.image().size();
  ready_.push_back(
      std::make_shared<v1::ClassifyStreamRequest>(std::move(request)));
}

// One thread at a time submits; the others leave their items to it. So an
// answer that comes before Classify returns makes the loop longer, and not the
// stack deeper.
void ClassifyStream::Pump() {
  mu_.Lock();
  if (!pumping_) {
    pumping_ = true;
    while (!ready_.empty() && !blocked_) {
      const Item item = std::move(ready_.front());
      ready_.pop_front();
      ++in_flight_;
      ++users_;
      const uint64_t answered = answered_;
      mu_.Unlock();
      Submit(item, answered);
      mu_.Lock();
    }
    pumping_ = false;
  }
  Advance();
  mu_.Unlock();
}

void ClassifyStream::Submit(const Item& item, uint64_t answered) {
  classifier_.Classify({.model = item->model(),
                        .images = {item->image()},
                        .deadline = deadline_,
                        .cancelled = [this] { return gone_.load(); }},
                       [=, this](const absl::StatusOr<ClassifyAnswer>& answer) {
                         OnAnswer(item, answered, answer);
                       });
}

void ClassifyStream::OnAnswer(const Item& item, uint64_t answered,
                              const absl::StatusOr<ClassifyAnswer>& answer) {
  const bool full = absl::IsResourceExhausted(answer.status());
  const bool unavailable = absl::IsUnavailable(answer.status());
  v1::ClassifyStreamResponse response;
  if (!full && !unavailable) response = ToClassifyStreamResponse(*item, answer);
  {
    const MutexLock lock(mu_);
    --in_flight_;
    if (unavailable || (full && dropping_)) {
      GiveUp(answer.status(), true);
    } else if (full && !finished_) {
      Hold(item, answered, answer.status());
    } else if (!finished_) {
      image_bytes_ -= item->image().size();
      answers_.push_back(std::move(response));
      ++answered_;
      blocked_ = false;  // There may be room now where its image was.
    }
  }
  Pump();
  Release();
}

void ClassifyStream::Hold(const Item& item, uint64_t answered,
                          const absl::Status& full) {
  ready_.push_front(item);
  // An answer that came meanwhile has made room already, and may be the last.
  blocked_ = answered_ == answered;
  if (!blocked_) return;
  if (std::exchange(alarm_is_set_, true)) return;
  ++users_;
  // A new one each time: the last may be the one that has called us.
  alarm_.emplace();
  alarm_->Set(
      std::chrono::system_clock::now() +
          absl::ToChronoMilliseconds(RetryDelayOf(full).value_or(kRetryDelay)),
      [this](bool expired) { OnAlarm(expired); });
}

void ClassifyStream::OnAlarm(bool expired) {
  if (expired) {
    {
      const MutexLock lock(mu_);
      alarm_is_set_ = false;
      blocked_ = false;
    }
    Pump();
  }
  Release();
}

void ClassifyStream::GiveUp(const absl::Status& status, bool lost) {
  dropping_ = true;
  const bool all_answered =
      ending_.has_value() && ending_->ok() && ready_.empty() && !lost;
  const bool is_error = ending_.has_value() && !ending_->ok();
  if (!all_answered && !is_error) ending_ = status;
  ready_.clear();
}

void ClassifyStream::Advance() {
  if (finished_) return;
  if (!writing_ && !answers_.empty()) {
    writing_ = true;
    StartWrite(&answers_.front());
  }
  const size_t open = ready_.size() + in_flight_ + answers_.size();
  if (ending_.has_value()) {
    if (open == 0) FinishOnce(*ending_);
    return;
  }
  if (!reading_ && open < static_cast<size_t>(limits_.max_stream_items) &&
      image_bytes_ < kMaxImageBytes) {
    reading_ = true;
    StartRead(&request_);
  }
}

void ClassifyStream::OnWriteDone(bool ok) {
  const MutexLock lock(mu_);
  writing_ = false;
  answers_.pop_front();
  if (!ok) FinishOnce(absl::CancelledError("the caller went away"));
  Advance();
}

void ClassifyStream::OnCancel() {
  const MutexLock lock(mu_);
  FinishOnce(absl::CancelledError("the caller went away"));
}

void ClassifyStream::FinishOnce(const absl::Status& status) {
  if (std::exchange(finished_, true)) return;
  gone_ = true;
  ready_.clear();
  Finish(ToGrpcStatus(status));
}

void ClassifyStream::OnDone() {
  on_over_(this);
  grpc::Alarm* alarm = nullptr;
  {
    const MutexLock lock(mu_);
    if (alarm_is_set_) alarm = &*alarm_;
  }
  if (alarm != nullptr) alarm->Cancel();
  Release();
}

void ClassifyStream::Release() {
  if (--users_ == 0) delete this;
}

}  // namespace finetune
