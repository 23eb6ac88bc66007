#include "client/load/load.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/time/clock.h"
#include "grpcpp/generic/generic_stub.h"

namespace finetune {
namespace {

constexpr int kMaxOpenCalls = 20'000;
// How late a stop may be noticed.
constexpr absl::Duration kLookAround = absl::Milliseconds(100);

struct OpenCall {
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer answer;
  grpc::Status status;
  size_t request = 0;
  absl::Time due;
};

class Runner {
 public:
  Runner(const std::shared_ptr<grpc::Channel>& channel,
         const LoadOptions& options)
      : options_(options), stub_(channel), random_(options.seed) {}

  LoadReport Run();

 private:
  bool MayStart(absl::Time now) const {
    return now < end_ && !options_.stop.stop_requested();
  }
  void Start(absl::Time due);
  void StartDue(absl::Time now);
  void End(std::unique_ptr<OpenCall> call);
  void Count(const OpenCall& call, absl::Duration took);
  void AddShare(absl::Time due, absl::Time now);
  absl::Duration NextGap();

  const LoadOptions& options_;
  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  std::mt19937_64 random_;
  absl::Time begin_, end_;  // Of what counts.
  absl::Time next_due_;     // Of an open loop.
  int open_calls_ = 0;
  size_t next_request_ = 0;
  LoadReport report_;
};

absl::Duration Runner::NextGap() {
  if (!options_.poisson) return absl::Seconds(1 / options_.rate);
  return absl::Seconds(std::exponential_distribution(options_.rate)(random_));
}

void Runner::Start(absl::Time due) {
  auto call = std::make_unique<OpenCall>();
  call->due = due;
  call->request = next_request_++ % options_.requests.size();
  call->context.set_deadline(absl::ToChronoTime(due + options_.deadline));
  call->reader =
      stub_.PrepareUnaryCall(&call->context, options_.method,
                             options_.requests[call->request], &queue_);
  ++open_calls_;
  call->reader->StartCall();
  OpenCall* tag = call.release();  // Comes back from the queue.
  tag->reader->Finish(&tag->answer, &tag->status, tag);
}

void Runner::StartDue(absl::Time now) {
  if (options_.rate <= 0 || options_.stop.stop_requested()) return;
  while (next_due_ <= now && next_due_ < end_) {
    if (open_calls_ < kMaxOpenCalls) {
      Start(next_due_);
    } else {
      ++report_.unsent;
    }
    next_due_ += NextGap();
  }
}

void Runner::Count(const OpenCall& call, absl::Duration took) {
  const double milliseconds = absl::ToDoubleMilliseconds(took);
  if (call.status.ok()) {
    report_.answered.push_back(milliseconds);
    return;
  }
  const auto code = static_cast<absl::StatusCode>(call.status.error_code());
  ++report_.errors[code];
  if (code == absl::StatusCode::kResourceExhausted) {
    report_.refused.push_back(milliseconds);
  }
}

void Runner::AddShare(absl::Time due, absl::Time now) {
  const absl::Duration took = std::max(now - due, absl::Nanoseconds(1));
  const absl::Duration inside = std::min(now, end_) - std::max(due, begin_);
  if (inside <= absl::ZeroDuration()) return;
  const double share = absl::FDivDuration(inside, took);
  report_.answered_per_second += share;
  if (took <= options_.deadline) report_.in_time_per_second += share;
}

void Runner::End(std::unique_ptr<OpenCall> call) {
  --open_calls_;
  const absl::Time now = absl::Now();
  const bool counts = now >= begin_ && now < end_;
  if (counts) Count(*call, now - call->due);
  if (call->status.ok()) AddShare(call->due, now);
  if (options_.on_answer) {
    options_.on_answer({.request = call->request,
                        .status = call->status,
                        .bytes = call->answer,
                        .took = now - call->due,
                        .counts = counts});
  }
  if (options_.rate <= 0 && MayStart(now)) Start(now);
}

LoadReport Runner::Run() {
  const absl::Time start = absl::Now();
  begin_ = start + options_.warmup;
  end_ = begin_ + options_.duration;
  next_due_ = start;
  if (options_.rate <= 0) {
    for (int i = 0; i < options_.concurrency; ++i) Start(start);
  }
  for (absl::Time now = start; open_calls_ > 0 || MayStart(now);
       now = absl::Now()) {
    StartDue(now);
    absl::Time wake = now + kLookAround;
    if (options_.rate > 0) wake = std::min(wake, next_due_);
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(wake)) ==
        grpc::CompletionQueue::GOT_EVENT) {
      End(std::unique_ptr<OpenCall>(static_cast<OpenCall*>(tag)));
    }
  }
  const absl::Time stopped = std::clamp(absl::Now(), begin_, end_);
  report_.seconds = absl::ToDoubleSeconds(stopped - begin_);
  if (report_.seconds > 0) {
    report_.answered_per_second /= report_.seconds;
    report_.in_time_per_second /= report_.seconds;
  }
  std::sort(report_.answered.begin(), report_.answered.end());
  std::sort(report_.refused.begin(), report_.refused.end());
  queue_.Shutdown();
  return std::move(report_);
}

}  // namespace

double Percentile(const std::vector<double>& sorted, double fraction) {
  if (sorted.empty()) return 0;
  const auto rank = static_cast<size_t>(
      std::ceil(fraction * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

LoadReport RunLoad(const std::shared_ptr<grpc::Channel>& channel,
                   const LoadOptions& options) {
  return Runner(channel, options).Run();
}

}  // namespace finetune
