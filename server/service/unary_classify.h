// What the unary calls that classify have in common.

#ifndef SERVER_SERVICE_UNARY_CLASSIFY_H_
#define SERVER_SERVICE_UNARY_CLASSIFY_H_

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/grpcpp.h"
#include "server/inference/classifier.h"
#include "server/service/call_log.h"

namespace finetune {

// Has `classifier` classify `images`, which are the request's, within the
// deadline of the call and as long as its caller is there. Tells `log` of the
// sizes, model and times, then calls `done`, which finishes the call, as
// Classifier::Classify does. The references must outlive the call.
void ClassifyForCall(
    Classifier& classifier, CallLog& log, grpc::CallbackServerContext* context,
    v1::ModelRef model, std::vector<absl::string_view> images,
    std::function<void(const absl::StatusOr<ClassifyAnswer>&)> done);

}  // namespace finetune

#endif  // SERVER_SERVICE_UNARY_CLASSIFY_H_
