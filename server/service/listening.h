// How the server listens: where, with what credentials, and what a connection
// may cost before its first call is even seen.

#ifndef SERVER_SERVICE_LISTENING_H_
#define SERVER_SERVICE_LISTENING_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/service/credentials.h"

namespace finetune {

struct ListenOptions {
  std::string address;  // HOST:PORT (port 0: a free one) or unix:PATH.
  TlsFiles tls;
  bool has_tokens = false;     // Whether calls need one.
  bool insecure_bind = false;  // Open to the network without TLS or tokens.

  int max_message_bytes = 64 << 20;  // A whole request.
  // Requests that are being received, over all connections. Near it gRPC ends
  // calls, with RESOURCE_EXHAUSTED or UNAVAILABLE: >= 4 x max_message_bytes.
  size_t max_receive_bytes = 1 << 30;
  int max_metadata_bytes = 8 << 10;   // A call's headers.
  int max_concurrent_streams = 1000;  // Calls on one connection.
  // A connection has this long for TLS and the first HTTP/2 frame.
  absl::Duration handshake_timeout = absl::Seconds(20);
  // A connection without calls is closed after this.
  absl::Duration max_idle = absl::Minutes(30);
  // A client that pings more often than this, again and again, is sent away.
  absl::Duration min_ping_interval = absl::Seconds(10);
  // How a watcher whose machine has gone is found out.
  absl::Duration keepalive_time = absl::Seconds(60);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  unsigned tls_refresh_seconds = 10;
};

// OK if the address is loopback, or if strangers cannot do harm: TLS, and
// either tokens or client certificates. FAILED_PRECONDITION says what to give.
absl::Status CheckBinding(const ListenOptions& options);

// Checks the binding, then adds the address and all limits to `builder`. `port`
// has the one that was taken after BuildAndStart; 0 if there is none.
//
// FAILED_PRECONDITION as CheckBinding and MakeServerCredentials.
absl::Status ConfigureListening(const ListenOptions& options,
                                grpc::ServerBuilder& builder, int* port);

}  // namespace finetune

#endif  // SERVER_SERVICE_LISTENING_H_
