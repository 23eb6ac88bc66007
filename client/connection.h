// How every command reaches the server, and what its failures look like.

#ifndef CLIENT_CONNECTION_H_
#define CLIENT_CONNECTION_H_

#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/grpc_status.h"
#include "google/protobuf/message.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

enum ExitCode {
  kDone = 0,
  kFailed = 1,  // The job, an image, or the request.
  kUsage = 2,
  kUnreachable = 3,  // No server, or no answer within the timeout.
  kInterrupted = 130,
};

// What the server asks of those who call it. Empty: nothing.
struct Access {
  bool tls = false;  // Also where one of the next four is set.
  // PEM files: who may have issued the server's certificate, in place of the
  // system's list; and what we show where the server asks for it (mTLS).
  std::string ca, certificate, key;
  std::string server_name;  // In its certificate, if not the server's host.
  // Holds the token alone, or is a token file of the server's (as
  // ParseTokenFile), of which the first admin token counts, else the first one.
  std::string token_file;
  std::string token;  // Used where there is no token_file.

  bool UsesTls() const {
    return tls || !ca.empty() || !certificate.empty() || !key.empty() ||
           !server_name.empty();
  }
};

// What all commands have in common.
struct Connection {
  std::string server = "127.0.0.1:50051";  // HOST:PORT.
  double timeout_seconds = 60;             // Of a call that is not a watch.
  bool json = false;
  Access access;
  std::string token;  // Goes with every call unless empty.
  std::shared_ptr<grpc::Channel> channel;

  // One of these before every call: the token, and for a unary call, which
  // Call makes, the deadline.
  void PrepareCall(grpc::ClientContext& context) const;
  void PrepareStream(grpc::ClientContext& context) const;
};

// Sets `channel` and `token`; the channel connects with the first call.
//
// INVALID_ARGUMENT where a file of `access` cannot be read or is not what it
// should be, and where a token would go unencrypted to another machine.
absl::Status Connect(Connection& connection);

// The code for a call that ended with `status`.
ExitCode ExitCodeOf(const absl::Status& status);

// `status` of a call that has ended, with the id that the server's log knows it
// by, for PrintError to print.
absl::Status WithRequestId(absl::Status status,
                           const grpc::ClientContext& context);

// One unary call of `stub`, with the token and the deadline.
template <typename Stub, typename Request, typename Response>
absl::Status Call(const Connection& connection, Stub& stub,
                  grpc::Status (Stub::*method)(grpc::ClientContext*,
                                               const Request&, Response*),
                  const Request& request, Response& response) {
  grpc::ClientContext context;
  connection.PrepareCall(context);
  const grpc::Status status = (stub.*method)(&context, request, &response);
  return WithRequestId(FromGrpcStatus(status), context);
}

// One or two lines: what went wrong and, where known, what to do, as
// ToPrintable gives it. Returns the code for it, with which the command ends.
ExitCode PrintError(const Connection& connection, const absl::Status& status,
                    std::ostream& err);

// protobuf's JSON mapping on one line, fields named as in the .proto.
void PrintJson(const google::protobuf::Message& message, std::ostream& out);

// How a command ends that only says what it has done: `text`, one line as
// ToPrintable gives it, or, as JSON, `response`; or as PrintError, where
// `status` is one.
ExitCode PrintDone(const Connection& connection, const absl::Status& status,
                   const google::protobuf::Message& response,
                   absl::string_view text, std::ostream& out,
                   std::ostream& err);

// How a program ends whose command ended with `code` and has printed to `out`:
// flushes it, and where something could not be written says so, with kFailed in
// place of kDone.
ExitCode FinishOutput(ExitCode code, std::ostream& out, std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_CONNECTION_H_
