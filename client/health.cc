#include "client/health.h"

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace finetune {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

ExitCode CheckHealth(const Connection& connection, const std::string& service,
                     std::ostream& out, std::ostream& err) {
  const auto stub = Health::NewStub(connection.channel);
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  absl::Status status =
      Call(connection, *stub, &Health::Stub::Check, request, response);
  if (absl::IsNotFound(status)) {
    // The standard service's own message does not name it.
    status = absl::NotFoundError(
        absl::StrCat("the server tells no health of a service \"", service,
                     "\"; without --service it tells its own"));
  }
  const ExitCode code = PrintDone(
      connection, status, response,
      HealthCheckResponse::ServingStatus_Name(response.status()), out, err);
  if (code != kDone) return code;
  return response.status() == HealthCheckResponse::SERVING ? kDone : kFailed;
}

}  // namespace finetune
