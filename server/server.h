// The composition root: builds the rooms in the order of the flow and wires
// them.

#ifndef SERVER_SERVER_H_
#define SERVER_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/options.h"

namespace finetune {

struct ServerRooms;

class Server {
 public:
  // Listens when this returns OK. Errors are for an operator: one clear line.
  //
  // FAILED_PRECONDITION if the device is absent, another server uses the state
  // folder, the address is open to other machines without TLS and tokens, or
  // the TLS files are broken; INVALID_ARGUMENT if the token file is;
  // UNAVAILABLE if the address cannot be bound; others as the file system gives
  // them.
  //
  // `on_fatal` is called, once, when the server cannot go on: after a CUDA
  // error that stays. It then serves nothing any more, and its process should
  // end with an error. It must not block, nor call the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options, std::function<void()> on_fatal = [] {});

  // As Shutdown.
  ~Server();

  // HOST:PORT with the port that was taken.
  const std::string& address() const;

  // HOST:PORT of the metrics; empty without.
  const std::string& metrics_address() const;

  // Drains: reports NOT_SERVING, takes no connection and refuses new work,
  // answers the calls under way, and at the same time has the running jobs
  // write checkpoints and end. What has not ended after
  // options.drain_timeout, long uploads say, is cut off. Idempotent.
  void Shutdown();

 private:
  explicit Server(std::unique_ptr<ServerRooms> rooms);

  std::unique_ptr<ServerRooms> rooms_;
  bool drained_ = false;
};

}  // namespace finetune

#endif  // SERVER_SERVER_H_
