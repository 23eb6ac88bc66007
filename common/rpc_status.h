// Errors with google.rpc details: made where the cause is known, carried as
// payloads of an absl::Status, sent as a google.rpc.Status.
//
// Free functions; thread-safe.

#ifndef COMMON_RPC_STATUS_H_
#define COMMON_RPC_STATUS_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"

namespace finetune {

// INVALID_ARGUMENT with BadRequest. `field` is a path from the request, such
// as "hyper_parameters.epochs"; `expected` completes "<field> must be ...".
absl::Status InvalidFieldError(absl::string_view field,
                               absl::string_view expected);

// NOT_FOUND with ResourceInfo. `type` is "job", "model" or "dataset".
absl::Status NoSuchResourceError(absl::string_view type,
                                 absl::string_view name);

// FAILED_PRECONDITION with PreconditionFailure. `type` is "DATASET", "MODEL",
// "WEIGHTS" or "DEVICE"; `description` says what is wrong and what to do.
absl::Status PreconditionError(absl::string_view type,
                               absl::string_view subject,
                               absl::string_view description);

// `status` with RetryInfo. REQUIRES: !status.ok().
absl::Status RetryAfter(absl::Status status, absl::Duration delay);

// The delay of a RetryInfo in `status`; none where there is no such detail.
std::optional<absl::Duration> RetryDelayOf(const absl::Status& status);

// What the server answers while it shuts down: UNAVAILABLE, try again in 10 s.
absl::Status ShuttingDownError();

// Both ways keep code, message and details. Messages are cut at 1 KiB, as
// gRPC sends them in a header of 8 KiB in all.
google::rpc::Status ToRpcStatus(const absl::Status& status);
absl::Status FromRpcStatus(const google::rpc::Status& status);

}  // namespace finetune

#endif  // COMMON_RPC_STATUS_H_
