// Many images to the server and their answers back, a few at a time.

#ifndef CLIENT_CLASSIFY_STREAM_H_
#define CLIENT_CLASSIFY_STREAM_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "finetune/v1/inference_service.pb.h"

namespace finetune {

struct ClassifyStreamOptions {
  v1::ModelRef model;  // Empty: the server's default.
  int top_k = 5;       // 0: all classes.
  size_t window = 64;  // Images on their way, or answered before their turn.
};

// Takes what became of files[index]: the answer, or why the file cannot be
// read. An error ends everything.
using ResultFn = std::function<absl::Status(
    size_t index, const absl::StatusOr<v1::ClassifyStreamResponse>& result)>;

// Sends the files in one stream and gives each one's result to `on_result`, in
// their order, one call at a time, on any thread. One image is in memory at a
// time, beside what gRPC holds. A connection that breaks is made anew for what
// has no answer yet, as long as each brought one.
//
// DEADLINE_EXCEEDED if nothing moves for the connection's timeout;
// UNIMPLEMENTED if the server is too old; `on_result`'s error, or the stream's.
absl::Status ClassifyInOrder(const Connection& connection,
                             const std::vector<std::string>& files,
                             const ClassifyStreamOptions& options,
                             const ResultFn& on_result);

}  // namespace finetune

#endif  // CLIENT_CLASSIFY_STREAM_H_
