// `finetune health`.

#ifndef CLIENT_HEALTH_H_
#define CLIENT_HEALTH_H_

#include <ostream>
#include <string>

#include "client/connection.h"

namespace finetune {

// Asks grpc.health.v1 for `service`, a full name as
// finetune.v1.InferenceService, or empty for the server as a whole, and prints
// the status. kDone where that is SERVING, else kFailed, as for a service that
// the server does not know. The server asks no token of this call.
ExitCode CheckHealth(const Connection& connection, const std::string& service,
                     std::ostream& out, std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_HEALTH_H_
