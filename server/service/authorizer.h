// Who may call what: bearer tokens with roles, from a file of the operator's.
//
// A handler of a gRPC service begins with one line:
//
//   if (auto* no = Refuse(authorizer_, context, Role::kAdmin)) return no;
//
// and, where it answers with a stream,
//
//   using Reactor = grpc::ServerWriteReactor<v1::WatchProgressResponse>;
//   if (auto* no = Refuse<Reactor>(authorizer_, context, Role::kAdmin)) ...
//
// Health and reflection have no such line: probes carry no token, and the
// contract is public.

#ifndef SERVER_SERVICE_AUTHORIZER_H_
#define SERVER_SERVICE_AUTHORIZER_H_

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/token_file.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

// Thread-safe.
class Authorizer {
 public:
  // Allows everything to everybody.
  Authorizer() = default;

  // Takes the tokens of `token_file`, at most 1 MiB, as ParseTokenFile reads
  // them. A token that comes twice has the higher role. A file that others may
  // read is warned about in the log.
  //
  // INVALID_ARGUMENT names the line that is wrong, or says that there is no
  // token; others as the file system gives them.
  static absl::StatusOr<std::unique_ptr<Authorizer>> Open(
      const std::filesystem::path& token_file,
      std::function<absl::Time()> now = absl::Now);

  // OK if the caller's metadata holds `authorization: Bearer TOKEN` with a
  // token whose role is `needed` or higher. Else UNAUTHENTICATED (no token, a
  // malformed or an unknown one) or PERMISSION_DENIED; no message repeats what
  // the caller sent.
  //
  // Looks at most once a second whether the file has changed, and reads it
  // again if so. A file that has gone or is broken is logged, once, and the
  // tokens stay as they are: to revoke the last one, replace it.
  absl::Status Check(const grpc::ServerContextBase& context, Role needed) const
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Token {
    std::string digest;  // SHA-256: equal lengths, and no secret in memory.
    Role role;
  };
  using Tokens = std::vector<Token>;
  using Version = std::vector<int64_t>;  // Of the file; empty: there is none.

  Authorizer(std::filesystem::path token_file, std::function<absl::Time()> now)
      : token_file_(std::move(token_file)), now_(std::move(now)) {}

  static Version VersionOf(const std::filesystem::path& file);
  absl::StatusOr<Tokens> Load() const;
  std::shared_ptr<const Tokens> Current() const ABSL_LOCKS_EXCLUDED(mu_);

  const std::filesystem::path token_file_;  // Empty: all is allowed.
  const std::function<absl::Time()> now_;
  mutable Mutex mu_;
  mutable std::shared_ptr<const Tokens> tokens_ ABSL_GUARDED_BY(mu_);
  mutable Version version_ ABSL_GUARDED_BY(mu_);  // Last read, or tried to.
  mutable absl::Time next_look_ ABSL_GUARDED_BY(mu_);
  mutable bool looking_ ABSL_GUARDED_BY(mu_) = false;
};

// Ends a call with `status` instead of handling it. Deletes itself.
template <typename Reactor>
class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(const absl::Status& status) {
    this->Finish(ToGrpcStatus(status));
  }
  void OnDone() override { delete this; }
};

// Null if the caller may go on; else the reactor that a handler returns.
template <typename Reactor = grpc::ServerUnaryReactor>
Reactor* Refuse(const Authorizer& authorizer,
                const grpc::CallbackServerContext* context, Role needed) {
  const absl::Status status = authorizer.Check(*context, needed);
  return status.ok() ? nullptr : new RefusedCall<Reactor>(status);
}

}  // namespace finetune

#endif  // SERVER_SERVICE_AUTHORIZER_H_
