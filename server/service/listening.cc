#include "server/service/listening.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/address.h"
#include "common/status_macros.h"
#include "grpcpp/resource_quota.h"

namespace finetune {
namespace {

// Pings too early that are forgiven, before the connection is.
constexpr int kMaxPingStrikes = 2;

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

void LimitConnections(const ListenOptions& options,
                      grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  grpc::ResourceQuota memory("requests");
  memory.Resize(options.max_receive_bytes);
  builder.SetResourceQuota(memory);
  const auto set = [&builder](const char* name, int value) {
    builder.AddChannelArgument(name, value);
  };
  // Else a second server would share the port and take half of the calls.
  set(GRPC_ARG_ALLOW_REUSEPORT, 0);
  set(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  set(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  set(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
      Milliseconds(options.handshake_timeout));
  set(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Milliseconds(options.max_idle));
  set(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  // Clients may ping between calls too: it is how an idle one learns that the
  // server has gone.
  set(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      Milliseconds(options.min_ping_interval));
  set(GRPC_ARG_HTTP2_MAX_PING_STRIKES, kMaxPingStrikes);
}

}  // namespace

absl::Status CheckBinding(const ListenOptions& options) {
  if (options.insecure_bind || IsLoopbackAddress(options.address)) {
    return absl::OkStatus();
  }
  const bool has_tls = !options.tls.certificate.empty();
  if (has_tls && (options.has_tokens || !options.tls.client_ca.empty())) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      options.address, " can be reached from other machines: give ",
      has_tls ? "" : "--tls_cert and --tls_key, and ",
      "--token_file or --tls_client_ca, or say --insecure_bind where a "
      "firewall or proxy guards the port"));
}

absl::Status ConfigureListening(const ListenOptions& options,
                                grpc::ServerBuilder& builder, int* port) {
  RETURN_IF_ERROR(CheckBinding(options));
  ASSIGN_OR_RETURN(
      const std::shared_ptr<grpc::ServerCredentials> credentials,
      MakeServerCredentials(options.tls, options.tls_refresh_seconds));
  builder.AddListeningPort(options.address, credentials, port);
  LimitConnections(options, builder);
  return absl::OkStatus();
}

}  // namespace finetune
