// `finetune classify`.

#ifndef CLIENT_CLASSIFY_H_
#define CLIENT_CLASSIFY_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

struct ClassifyOptions {
  v1::ModelRef model;  // Empty: the server's default.
  int top_k = 5;       // 0: all classes.
};

// "NAME" or "NAME@VERSION". INVALID_ARGUMENT for anything else.
absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& text);

// Classifies the files, several in a request, and prints each one's labels.
// A file that cannot be read or classified is reported and the others go on;
// kFailed at the end. An error of the whole call ends the command.
ExitCode ClassifyFiles(const Connection& connection,
                       const std::vector<std::string>& files,
                       const ClassifyOptions& options, std::ostream& out,
                       std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_CLASSIFY_H_
