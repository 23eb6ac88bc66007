// Every call of every service, seen from outside the handlers: an interceptor
// that gives each a request id and reports its end. A call whose request could
// not be parsed (common/request_parser.h) ends with that error.
//
// The id is the caller's `x-request-id` metadata, if it is 1..64 of
// [A-Za-z0-9._-], else a random one, and goes back as `x-request-id` in the
// trailing metadata.

#ifndef SERVER_SERVICE_CALL_LOG_H_
#define SERVER_SERVICE_CALL_LOG_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/support/server_interceptor.h"
#include "nlohmann/json.hpp"

namespace finetune {

inline constexpr char kRequestIdHeader[] = "x-request-id";

// What a call that classifies asked for and got.
struct ClassifyFacts {
  int images = 0;
  int64_t request_bytes = 0;  // Of the images.
  std::string model;          // NAME@VERSION; empty if none answered.
  absl::Duration queue, preprocess, compute;
  int batch_size = 0;
};

// A call that has ended.
struct CallRecord {
  std::string request_id;
  // "package.Service/Method", of the services that CallLog knows; "other" for
  // what a caller made up.
  std::string method;
  std::string peer;
  grpc::Status status;
  absl::Duration elapsed;  // From the headers' arrival to the status.
  std::optional<ClassifyFacts> classify;  // Of the unary ones.

  // Health and reflection: not the product, and many.
  bool IsBackground() const;
};

// UNKNOWN for a code that is none.
std::string CodeName(grpc::StatusCode code);

// The record as fields of the log, message first.
nlohmann::ordered_json ToLogFields(const CallRecord& record);

// Thread-safe.
class CallLog {
 public:
  // Called on gRPC's threads as the status is about to be sent; must be quick.
  using EndFn = std::function<void(const CallRecord&)>;

  // `services` are full names; health and reflection are known anyway.
  CallLog(const std::vector<std::string>& services, EndFn on_end);

  // Makes the server of `builder` report its calls here. This must outlive it.
  void Attach(grpc::ServerBuilder& builder);

  // For the handler of a call that classifies, before it finishes the call:
  // what its record shall say. Nothing happens where the call is not reported
  // here.
  void Note(const grpc::ServerContextBase& context, ClassifyFacts facts)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Calls under way, but for those in the background.
  int in_flight() const ABSL_LOCKS_EXCLUDED(mu_);

  // The others: those who watch health, say.
  int in_background() const ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until none is in flight, at most for `timeout`. Returns whether none
  // is. Their answers are then with the transport.
  bool AwaitIdle(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Call;
  class CallFactory;

  // "package.Service/Method" of all methods.
  std::set<std::string, std::less<>> methods_;
  const EndFn on_end_;
  mutable Mutex mu_;
  std::map<const grpc::ServerContextBase*, Call*> calls_
      ABSL_GUARDED_BY(mu_);  // Under way.
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  int in_background_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace finetune

#endif  // SERVER_SERVICE_CALL_LOG_H_
