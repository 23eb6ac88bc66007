// What unary handlers of all services have in common.

#ifndef SERVER_SERVICE_UNARY_H_
#define SERVER_SERVICE_UNARY_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

// Ends a call at once. What a handler returns.
inline grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                        const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// The entries of a page: 1..100, and 20 where 0 was asked for.
// INVALID_ARGUMENT with BadRequest otherwise.
inline absl::StatusOr<int> ResolvePageSize(int page_size) {
  constexpr int kMax = 100, kDefault = 20;
  if (page_size < 0 || page_size > kMax) {
    return InvalidFieldError("page_size",
                             absl::StrCat("0..", kMax, ", not ", page_size));
  }
  return page_size == 0 ? kDefault : page_size;
}

}  // namespace finetune

#endif  // SERVER_SERVICE_UNARY_H_
