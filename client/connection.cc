#include "client/connection.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/tls_files.h"
#include "common/address.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/token.h"
#include "common/token_file.h"
#include "common/utf8.h"
#include "google/protobuf/util/json_util.h"

namespace finetune {
namespace {

constexpr int kMaxMessageBytes = 64 << 20;
constexpr int kMaxReconnectMs = 2000;  // A watch looks this often for a server.
// How a watch learns that the server's machine has gone.
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
constexpr uint64_t kMaxTokenFileBytes = 1 << 20;

// The trailing metadata's name, and the payload's.
constexpr char kRequestId[] = "x-request-id";

// The token in the content of `file`: alone, or the server's own file, of which
// the one that may do most counts.
absl::StatusOr<std::string> TokenIn(absl::string_view content,
                                    const std::string& file) {
  content = absl::StripAsciiWhitespace(content);
  if (IsToken(content)) return std::string(content);
  const auto tokens = ParseTokenFile(content);
  if (!tokens.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, " must hold a token alone, or be a token file of the server's: ",
        tokens.status().message()));
  }
  return std::max_element(tokens->begin(), tokens->end(),
                          [](const RoleToken& a, const RoleToken& b) {
                            return a.role < b.role;
                          })
      ->token;
}

absl::StatusOr<std::string> ReadToken(const Access& access) {
  if (!access.token_file.empty()) {
    const auto content = ReadFile(access.token_file, kMaxTokenFileBytes);
    if (content.ok()) return TokenIn(*content, access.token_file);
    return absl::InvalidArgumentError(
        absl::StrCat("--token-file: ", content.status().message()));
  }
  const absl::string_view token = absl::StripAsciiWhitespace(access.token);
  if (token.empty() || IsToken(token)) return std::string(token);
  return absl::InvalidArgumentError(
      absl::StrCat("FINETUNE_TOKEN must hold a token alone: ", kTokenForm));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const Access& access) {
  if (!access.UsesTls()) return grpc::InsecureChannelCredentials();
  ASSIGN_OR_RETURN(const PemFiles files, ReadTlsFiles(access));
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = files.ca;
  options.pem_cert_chain = files.certificate;
  options.pem_private_key = files.key;
  return grpc::SslCredentials(options);
}

void AddToken(const std::string& token, grpc::ClientContext& context) {
  if (!token.empty()) context.AddMetadata(kTokenHeader, kTokenScheme + token);
}

}  // namespace

void Connection::PrepareCall(grpc::ClientContext& context) const {
  AddToken(token, context);
  context.set_deadline(
      std::chrono::system_clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(1000 * timeout_seconds)));
}

void Connection::PrepareStream(grpc::ClientContext& context) const {
  AddToken(token, context);
}

absl::Status Connect(Connection& connection) {
  const Access& access = connection.access;
  ASSIGN_OR_RETURN(connection.token, ReadToken(access));
  ASSIGN_OR_RETURN(const auto credentials, MakeCredentials(access));
  const bool is_local = IsLoopbackAddress(connection.server);
  if (!connection.token.empty() && !access.UsesTls() && !is_local) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the token would go to ", connection.server,
        " unencrypted: use --tls, or --tls-ca FILE for a certificate of your "
        "own authority"));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  // A proxy would see the token, and has no way to this machine anyway.
  if (is_local) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!access.server_name.empty()) {
    arguments.SetSslTargetNameOverride(access.server_name);
  }
  connection.channel =
      grpc::CreateCustomChannel(connection.server, credentials, arguments);
  return absl::OkStatus();
}

absl::Status WithRequestId(absl::Status status,
                           const grpc::ClientContext& context) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto id = trailing.find(kRequestId);
  if (id != trailing.end()) {
    status.SetPayload(kRequestId, absl::Cord(absl::string_view(
                                      id->second.data(), id->second.size())));
  }
  return status;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kDone;
  // A server that says when to try again is there.
  const bool silent = absl::IsUnavailable(status) && !RetryDelayOf(status);
  return silent || absl::IsDeadlineExceeded(status) ? kUnreachable : kFailed;
}

ExitCode PrintError(const Connection& connection, const absl::Status& status,
                    std::ostream& err) {
  const ExitCode code = ExitCodeOf(status);
  if (code == kUnreachable) {
    err << "finetune: no answer from " << ToPrintable(connection.server) << ": "
        << ToPrintable(status.message()) << "\n"
        << "Is finetuned running there, "
        << (connection.access.UsesTls() ? "with" : "without")
        << " TLS? --server or FINETUNE_SERVER names another HOST:PORT.\n";
    return code;
  }
  err << "finetune: "
      << (status.message().empty() ? absl::StatusCodeToString(status.code())
                                   : ToPrintable(status.message()))
      << "\n";
  if (const auto delay = RetryDelayOf(status); delay.has_value()) {
    err << "Try again in "
        << absl::ToInt64Seconds(absl::Ceil(*delay, absl::Seconds(1)))
        << " s.\n";
  }
  const auto request_id = status.GetPayload(kRequestId);
  if (request_id.has_value()) {
    err << "The server's log has it as request "
        << ToPrintable(std::string(*request_id)) << ".\n";
  }
  return code;
}

void PrintJson(const google::protobuf::Message& message, std::ostream& out) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto printed =
      google::protobuf::util::MessageToJsonString(message, &json, options);
  out << (printed.ok() ? json : "{}") << std::endl;
}

ExitCode PrintDone(const Connection& connection, const absl::Status& status,
                   const google::protobuf::Message& response,
                   absl::string_view text, std::ostream& out,
                   std::ostream& err) {
  if (!status.ok()) return PrintError(connection, status, err);
  if (connection.json) {
    PrintJson(response, out);
  } else {
    out << ToPrintable(text) << "\n";
  }
  return kDone;
}

ExitCode FinishOutput(ExitCode code, std::ostream& out, std::ostream& err) {
  errno = 0;  // The flush, if it fails, says why; an earlier failure does not.
  out.flush();
  if (out) return code;
  const int error = errno;
  err << "finetune: the output cannot be written";
  if (error != 0) err << ": " << std::generic_category().message(error);
  err << std::endl;
  return code == kDone ? kFailed : code;
}

}  // namespace finetune
