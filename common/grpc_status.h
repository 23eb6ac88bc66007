// The one place where the two status vocabularies meet: absl::Status inside
// the process, grpc::Status on the wire. Codes are numbered alike in both;
// payloads travel as google.rpc details.

#ifndef COMMON_GRPC_STATUS_H_
#define COMMON_GRPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace finetune {

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace finetune

#endif  // COMMON_GRPC_STATUS_H_
