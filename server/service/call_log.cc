#include "server/service/call_log.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/request_parser.h"
#include "google/protobuf/descriptor.h"

namespace finetune {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

constexpr size_t kMaxIdLength = 64;
constexpr size_t kMaxErrorLength = 256;  // In a line of the log.
// What every gRPC server has.
constexpr std::array<absl::string_view, 3> kBackground = {
    "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"};
constexpr absl::string_view kOther = "other";

bool IsRequestId(absl::string_view id) {
  return !id.empty() && id.size() <= kMaxIdLength &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

std::string DrawRequestId() {
  thread_local absl::BitGen random;
  return absl::StrCat(
      absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
}

// With three digits: more would be noise.
double Milliseconds(absl::Duration duration) {
  return std::round(absl::ToDoubleMicroseconds(duration)) / 1000;
}

}  // namespace

bool CallRecord::IsBackground() const {
  return std::find(kBackground.begin(), kBackground.end(), method) !=
         kBackground.end();
}

std::string CodeName(grpc::StatusCode code) {
  const std::string name =
      absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
  return name.empty() ? "UNKNOWN" : name;
}

nlohmann::ordered_json ToLogFields(const CallRecord& record) {
  nlohmann::ordered_json fields = {
      {"message", "call"},
      {"request_id", record.request_id},
      {"method", record.method},
      {"code", CodeName(record.status.error_code())},
      {"ms", Milliseconds(record.elapsed)},
      {"peer", record.peer}};
  if (!record.status.ok()) {
    fields["error"] = record.status.error_message().substr(0, kMaxErrorLength);
  }
  if (!record.classify.has_value()) return fields;
  const ClassifyFacts& facts = *record.classify;
  fields["images"] = facts.images;
  fields["request_bytes"] = facts.request_bytes;
  if (facts.model.empty()) return fields;
  fields["model"] = facts.model;
  fields["queue_ms"] = Milliseconds(facts.queue);
  fields["preprocess_ms"] = Milliseconds(facts.preprocess);
  fields["compute_ms"] = Milliseconds(facts.compute);
  fields["batch_size"] = facts.batch_size;
  return fields;
}

// Lives as long as the call: until its last message is with the transport.
class CallLog::Call final : public grpc::experimental::Interceptor {
 public:
  Call(CallLog& log, ServerRpcInfo& info)
      : log_(log), info_(info), begin_(absl::Now()) {
    // The caller's own words, where the server has no such method.
    absl::string_view path = info.method() == nullptr ? "" : info.method();
    absl::ConsumePrefix(&path, "/");
    record_.method = std::string(log.methods_.contains(path) ? path : kOther);
    const MutexLock lock(log_.mu_);
    ++Count();
    log_.calls_[info_.server_context()] = this;
  }

  ~Call() override {
    const MutexLock lock(log_.mu_);
    --Count();
    // Where the next call's context has been given the place of this one's,
    // which may be gone already, the entry is that call's.
    const auto entry = log_.calls_.find(info_.server_context());
    if (entry != log_.calls_.end() && entry->second == this) {
      log_.calls_.erase(entry);
    }
  }

  void Note(ClassifyFacts facts) { record_.classify = std::move(facts); }

  void Intercept(InterceptorBatchMethods* batch) override {
    using Hook = InterceptionHookPoints;
    const auto at = [&](Hook hook) {
      return batch->QueryInterceptionHookPoint(hook);
    };
    if (at(Hook::POST_RECV_INITIAL_METADATA)) TakeId(*batch);
    if (at(Hook::POST_RECV_MESSAGE)) NoteParseError();
    if (at(Hook::PRE_SEND_STATUS)) End(*batch);
    batch->Proceed();
  }

 private:
  int& Count() ABSL_EXCLUSIVE_LOCKS_REQUIRED(log_.mu_) {
    return record_.IsBackground() ? log_.in_background_ : log_.in_flight_;
  }

  void TakeId(InterceptorBatchMethods& batch) {
    const auto* const metadata = batch.GetRecvInitialMetadata();
    const auto given = metadata->find(kRequestIdHeader);
    const absl::string_view id =
        given == metadata->end()
            ? absl::string_view()
            : absl::string_view(given->second.data(), given->second.size());
    record_.request_id = IsRequestId(id) ? std::string(id) : DrawRequestId();
  }

  // A stream may be ending at the same time, on another thread.
  void NoteParseError() {
    const grpc::Status error = TakeParseError();
    if (error.ok()) return;
    const MutexLock lock(log_.mu_);
    parse_error_ = error;
  }

  grpc::Status parse_error() const {
    const MutexLock lock(log_.mu_);
    return parse_error_;
  }

  void End(InterceptorBatchMethods& batch) {
    // The handler has not seen the request, or takes it for a stream's end.
    const grpc::Status error = parse_error();
    if (!error.ok()) batch.ModifySendStatus(error);
    record_.status = batch.GetSendStatus();
    record_.peer = info_.server_context()->peer();
    record_.elapsed = absl::Now() - begin_;
    batch.GetSendTrailingMetadata()->emplace(kRequestIdHeader,
                                             record_.request_id);
    log_.on_end_(record_);
  }

  CallLog& log_;
  ServerRpcInfo& info_;
  const absl::Time begin_;
  CallRecord record_;
  // Of the request or a stream's message.
  grpc::Status parse_error_ ABSL_GUARDED_BY(log_.mu_);
};

class CallLog::CallFactory final
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallFactory(CallLog& log) : log_(log) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      ServerRpcInfo* info) override {
    return new Call(log_, *info);  // gRPC takes it.
  }

 private:
  CallLog& log_;
};

CallLog::CallLog(const std::vector<std::string>& services, EndFn on_end)
    : methods_(kBackground.begin(), kBackground.end()),
      on_end_(std::move(on_end)) {
  for (const std::string& service : services) {
    const auto* const descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
            service);
    for (int i = 0; descriptor && i < descriptor->method_count(); ++i) {
      methods_.insert(
          absl::StrCat(service, "/", descriptor->method(i)->name()));
    }
  }
}

void CallLog::Attach(grpc::ServerBuilder& builder) {
  std::vector<
      std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      factories;
  factories.push_back(std::make_unique<CallFactory>(*this));
  builder.experimental().SetInterceptorCreators(std::move(factories));
}

void CallLog::Note(const grpc::ServerContextBase& context,
                   ClassifyFacts facts) {
  const MutexLock lock(mu_);
  const auto call = calls_.find(&context);
  if (call != calls_.end()) call->second->Note(std::move(facts));
}

int CallLog::in_flight() const {
  const MutexLock lock(mu_);
  return in_flight_;
}

int CallLog::in_background() const {
  const MutexLock lock(mu_);
  return in_background_;
}

bool CallLog::AwaitIdle(absl::Duration timeout) const {
  const MutexLock lock(mu_);
  return mu_.AwaitFor(timeout, [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return in_flight_ == 0;
  });
}

}  // namespace finetune
