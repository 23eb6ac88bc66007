// The server's token file: who may call what.
//
// One token a line as `ROLE TOKEN`, ROLE `classify` or `admin`; # starts a
// comment line, and empty lines do not count.

#ifndef COMMON_TOKEN_FILE_H_
#define COMMON_TOKEN_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace finetune {

// Each may do all that those before it may.
enum class Role { kNone, kClassify, kAdmin };

struct RoleToken {
  Role role;          // Not kNone.
  std::string token;  // As IsToken.
};

// The tokens in the order of the lines, at least one. INVALID_ARGUMENT names
// the line that is wrong, without repeating it, or says that there is no token.
absl::StatusOr<std::vector<RoleToken>> ParseTokenFile(
    absl::string_view content);

}  // namespace finetune

#endif  // COMMON_TOKEN_FILE_H_
