// `finetune classify`.

#ifndef CLIENT_CLASSIFY_H_
#define CLIENT_CLASSIFY_H_

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

struct ClassifyOptions {
  v1::ModelRef model;        // Empty: the server's default.
  std::optional<int> top_k;  // 0: all classes. Empty: 5, and 1 in a table.
  size_t window = 64;        // Images on their way at once.
  int terminal_width = 0;    // Of `err`, in columns; 0: not a terminal.
  bool out_is_terminal = false;
};

// "NAME" or "NAME@VERSION". INVALID_ARGUMENT for anything else.
absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& text);

// Classifies files, and the images in folders (see ListImages), over one
// stream. Prints results to `out` in the order of the paths: one image as a
// block of its labels, more than one as a table, or JSON lines. On a terminal a
// bar on `err` says how far it is; a line there sums up more than one image.
//
// A file that cannot be read or classified is reported in its turn and the
// others go on; kFailed at the end. An error that is not an image's own (no
// such model, server gone) ends the command.
ExitCode ClassifyPaths(const Connection& connection,
                       const std::vector<std::string>& paths,
                       const ClassifyOptions& options, std::ostream& out,
                       std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_CLASSIFY_H_
