// Server reflection (grpc.reflection.v1alpha): tells callers which services
// there are and what their messages look like, from the descriptors linked in.
// gRPC's own plug-in parses its requests without a limit on their fields.

#ifndef SERVER_SERVICE_REFLECTION_SERVICE_H_
#define SERVER_SERVICE_REFLECTION_SERVICE_H_

#include "grpcpp/grpcpp.h"

namespace finetune {

// Adds reflection to the server of `builder`. It lists whatever services that
// server has, is open to callers without a token, and answers one request of a
// stream after the other. A request of more than 4 KiB ends the stream with
// INVALID_ARGUMENT.
void AddReflection(grpc::ServerBuilder& builder);

}  // namespace finetune

#endif  // SERVER_SERVICE_REFLECTION_SERVICE_H_
