// What to do with files that the state's database does not know: keep them
// where an operator finds them. A database that was lost, or is yesterday's,
// must not cost what it has forgotten.

#ifndef SERVER_STATE_SET_ASIDE_H_
#define SERVER_STATE_SET_ASIDE_H_

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace finetune {

// Moves `path`, a file or folder below `state_dir`, to `state_dir`/lost+found,
// and logs `why`. Its new name is its path below `state_dir` with '-' for '/',
// followed by a number where that name is taken. Durable when it returns OK.
// Thread-safe for different paths.
absl::Status SetAside(const std::filesystem::path& path,
                      const std::filesystem::path& state_dir,
                      absl::string_view why);

}  // namespace finetune

#endif  // SERVER_STATE_SET_ASIDE_H_
