#include "client/classify_stream.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "finetune/v1/inference_service.grpc.pb.h"

namespace finetune {
namespace {

constexpr uint64_t kMaxFileBytes = 48 << 20;

using Stream = grpc::ClientReaderWriter<v1::ClassifyStreamRequest,
                                        v1::ClassifyStreamResponse>;
using Result = absl::StatusOr<v1::ClassifyStreamResponse>;

// An image's item_id is its index.
class Pump {
 public:
  Pump(const Connection& connection, const std::vector<std::string>& files,
       const ClassifyStreamOptions& options, const ResultFn& on_result)
      : connection_(connection),
        files_(files),
        options_(options),
        on_result_(on_result),
        stub_(v1::InferenceService::NewStub(connection.channel)) {}

  absl::Status Run() ABSL_LOCKS_EXCLUDED(mu_) {
    bool again = false;
    while (true) {
      const uint64_t before = Answered();
      const absl::Status status = RunStream(again);
      const bool broken = absl::IsUnavailable(status) && Answered() > before;
      if (!broken) return status;
      again = true;
    }
  }

 private:
  uint64_t Answered() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    return answered_;
  }

  // This thread reads, another writes, a third sees to it that they go on.
  absl::Status RunStream(bool again) ABSL_LOCKS_EXCLUDED(mu_) {
    grpc::ClientContext context;
    connection_.PrepareStream(context);
    context.set_wait_for_ready(again);  // The server may be starting.
    const std::unique_ptr<Stream> stream = stub_->ClassifyStream(&context);
    {
      const MutexLock lock(mu_);
      stopped_ = false;
      context_ = &context;
    }
    std::thread writer([&] { Write(*stream); });
    std::thread watchdog([this] { Watch(); });
    v1::ClassifyStreamResponse response;
    while (stream->Read(&response)) Take(response);
    {
      const MutexLock lock(mu_);
      stopped_ = true;
    }
    writer.join();
    watchdog.join();
    const absl::Status status = FromGrpcStatus(stream->Finish());
    const MutexLock lock(mu_);
    if (!error_.ok()) return error_;
    if (absl::IsUnimplemented(status)) {
      return absl::UnimplementedError(
          "the server has no ClassifyStream: it is older than this client");
    }
    if (status.ok() && next_ < files_.size()) {
      return absl::InternalError("the server ended the stream too early");
    }
    return status;
  }

  void Write(Stream& stream) ABSL_LOCKS_EXCLUDED(mu_) {
    for (size_t i = 0; i < files_.size(); ++i) {
      if (IsKnown(i)) continue;  // From a stream before.
      if (!AwaitTurn(i)) return;
      absl::StatusOr<std::string> bytes = ReadFile(files_[i], kMaxFileBytes);
      if (!bytes.ok()) {
        const MutexLock lock(mu_);
        Store(i, bytes.status());
        continue;
      }
      v1::ClassifyStreamRequest request;
      request.set_item_id(absl::StrCat(i));
      *request.mutable_model() = options_.model;
      request.set_top_k(options_.top_k);
      request.set_image(*std::move(bytes));
      {
        const MutexLock lock(mu_);
        sent_ = std::max(sent_, i + 1);
        ++moves_;
      }
      if (!stream.Write(request)) return;
    }
    stream.WritesDone();
  }

  // Waits until the window reaches image `i`. False: the stream has ended.
  bool AwaitTurn(size_t i) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    mu_.Await([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return stopped_ || i < next_ + options_.window;
    });
    return !stopped_;
  }

  bool IsKnown(size_t i) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    return Knows(i);
  }
  bool Knows(size_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return i < next_ ||
           (i - next_ < results_.size() && results_[i - next_].has_value());
  }

  void Take(const v1::ClassifyStreamResponse& response)
      ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    uint64_t i = 0;
    if (!absl::SimpleAtoi(response.item_id(), &i) || i >= sent_ || Knows(i)) {
      return Fail(absl::InternalError(
          absl::StrCat("the server answered an image that it was not sent: \"",
                       response.item_id(), "\"")));
    }
    ++answered_;
    Store(i, response);
  }

  // Passes on what is in turn now.
  void Store(size_t i, Result result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++moves_;
    if (results_.size() <= i - next_) results_.resize(i - next_ + 1);
    results_[i - next_] = std::move(result);
    while (!results_.empty() && results_.front().has_value() && error_.ok()) {
      if (absl::Status s = on_result_(next_, *results_.front()); !s.ok()) {
        return Fail(std::move(s));
      }
      results_.pop_front();
      ++next_;
    }
  }

  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (error_.ok()) error_ = std::move(status);
    stopped_ = true;
    context_->TryCancel();
  }

  void Watch() ABSL_LOCKS_EXCLUDED(mu_) {
    const absl::Duration timeout = absl::Seconds(connection_.timeout_seconds);
    const MutexLock lock(mu_);
    while (!stopped_) {
      const uint64_t before = moves_;
      if (!mu_.AwaitFor(timeout, [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
            return stopped_ || moves_ != before;
          })) {
        Fail(absl::DeadlineExceededError(
            absl::StrCat("nothing came for ", absl::FormatDuration(timeout))));
      }
    }
  }

  const Connection& connection_;
  const std::vector<std::string>& files_;
  const ClassifyStreamOptions& options_;
  const ResultFn& on_result_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;

  Mutex mu_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;  // The stream has ended.
  absl::Status error_ ABSL_GUARDED_BY(mu_);    // Ends everything.
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;       // The first not passed on.
  size_t sent_ ABSL_GUARDED_BY(mu_) = 0;       // One past the last sent.
  uint64_t answered_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t moves_ ABSL_GUARDED_BY(mu_) = 0;  // Anything that got on.
  // From next_ on; at most a window of them.
  std::deque<std::optional<Result>> results_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

absl::Status ClassifyInOrder(const Connection& connection,
                             const std::vector<std::string>& files,
                             const ClassifyStreamOptions& options,
                             const ResultFn& on_result) {
  return Pump(connection, files, options, on_result).Run();
}

}  // namespace finetune
