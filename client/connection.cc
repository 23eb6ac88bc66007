#include "client/connection.h"

#include <chrono>
#include <optional>

#include "common/rpc_status.h"
#include "google/protobuf/util/json_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace finetune {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr int kMaxReconnectMs = 2000;  // A watch looks this often for a server.

std::optional<int64_t> RetrySeconds(const absl::Status& status) {
  const google::rpc::Status wire = ToRpcStatus(status);
  for (const auto& detail : wire.details()) {
    google::rpc::RetryInfo retry;
    if (!detail.UnpackTo(&retry)) continue;
    return retry.retry_delay().seconds() +
           (retry.retry_delay().nanos() > 0 ? 1 : 0);
  }
  return std::nullopt;
}

}  // namespace

void Connection::SetDeadline(grpc::ClientContext& context) const {
  context.set_deadline(
      std::chrono::system_clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(1000 * timeout_seconds)));
}

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(),
                                   arguments);
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kDone;
  // A server that says when to try again is there.
  const bool silent = absl::IsUnavailable(status) && !RetrySeconds(status);
  return silent || absl::IsDeadlineExceeded(status) ? kUnreachable : kFailed;
}

void PrintError(const Connection& connection, const absl::Status& status,
                std::ostream& err) {
  if (ExitCodeOf(status) == kUnreachable) {
    err << "finetune: no answer from " << connection.server << ": "
        << status.message() << "\n"
        << "Is finetuned running there? --server or FINETUNE_SERVER names "
           "another HOST:PORT.\n";
    return;
  }
  err << "finetune: " << status.message() << "\n";
  const auto retry = RetrySeconds(status);
  if (retry.has_value()) err << "Try again in " << *retry << " s.\n";
}

void PrintJson(const google::protobuf::Message& message, std::ostream& out) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed =
      google::protobuf::util::MessageToJsonString(message, &json, options);
  out << (printed.ok() ? json : "{}") << std::endl;
}

}  // namespace finetune
