// The composition root: builds the rooms in the order of the flow and wires
// them.

#ifndef SERVER_SERVER_H_
#define SERVER_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/options.h"

namespace finetune {

class Server {
 public:
  // Listens when this returns OK. Errors are for an operator: one clear line.
  //
  // FAILED_PRECONDITION if the device is absent, another server uses the state
  // folder, the address is open to other machines without TLS and tokens, or
  // the TLS files are broken; INVALID_ARGUMENT if the token file is;
  // UNAVAILABLE if the address cannot be bound; others as the file system gives
  // them.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options);

  // As Shutdown.
  ~Server();

  // HOST:PORT with the port that was taken.
  const std::string& address() const;

  // Reports NOT_SERVING, refuses new work, answers the images that wait, stops
  // the running job, and returns. Idempotent.
  void Shutdown();

 private:
  struct Rooms;
  explicit Server(std::unique_ptr<Rooms> rooms);

  std::unique_ptr<Rooms> rooms_;
};

}  // namespace finetune

#endif  // SERVER_SERVER_H_
