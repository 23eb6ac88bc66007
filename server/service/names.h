// What may be a name, in every service.

#ifndef SERVER_SERVICE_NAMES_H_
#define SERVER_SERVICE_NAMES_H_

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"

namespace finetune {

inline constexpr size_t kMaxNameLength = 63;

inline bool IsNameCharacter(char c) {
  return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
}

// [a-z0-9-]{1,63}
inline bool IsModelName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength &&
         std::all_of(name.begin(), name.end(), IsNameCharacter);
}

// `text` lower-cased and cut, other characters as '-'. REQUIRES: !text.empty()
inline std::string ToModelName(absl::string_view text) {
  std::string name = absl::AsciiStrToLower(text.substr(0, kMaxNameLength));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !IsNameCharacter(c); },
      '-');
  return name;
}

}  // namespace finetune

#endif  // SERVER_SERVICE_NAMES_H_
