// Bearer tokens, as server and client both know them.

#ifndef COMMON_TOKEN_H_
#define COMMON_TOKEN_H_

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"

namespace finetune {

inline constexpr char kTokenHeader[] = "authorization";
inline constexpr char kTokenScheme[] = "Bearer ";
// Completes "a token is ...".
inline constexpr char kTokenForm[] =
    "16 to 256 printable ASCII characters without spaces";

// Whether `text` has a token's form.
inline bool IsToken(absl::string_view text) {
  return text.size() >= 16 && text.size() <= 256 &&
         std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

}  // namespace finetune

#endif  // COMMON_TOKEN_H_
