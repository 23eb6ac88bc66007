// How every command reaches the server, and what its failures look like.

#ifndef CLIENT_CONNECTION_H_
#define CLIENT_CONNECTION_H_

#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
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

// What all commands have in common.
struct Connection {
  std::string server = "127.0.0.1:50051";  // HOST:PORT.
  double timeout_seconds = 60;             // Of a call that is not a watch.
  bool json = false;
  std::shared_ptr<grpc::Channel> channel;

  // Sets the deadline of a unary call.
  void SetDeadline(grpc::ClientContext& context) const;
};

// The channel to `server`; connects with the first call.
std::shared_ptr<grpc::Channel> Connect(const std::string& server);

// The code for a call that ended with `status`.
ExitCode ExitCodeOf(const absl::Status& status);

// One or two lines: what went wrong and, where known, what to do.
void PrintError(const Connection& connection, const absl::Status& status,
                std::ostream& err);

// protobuf's JSON mapping on one line, fields named as in the .proto.
void PrintJson(const google::protobuf::Message& message, std::ostream& out);

}  // namespace finetune

#endif  // CLIENT_CONNECTION_H_
