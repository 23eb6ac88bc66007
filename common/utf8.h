// File names are bytes; protobuf strings are UTF-8, and a message with anything
// else in one cannot be read.

#ifndef COMMON_UTF8_H_
#define COMMON_UTF8_H_

#include <string>

#include "absl/strings/string_view.h"

namespace finetune {

// Whether `bytes` are well-formed UTF-8 (Unicode 15, table 3-7).
bool IsUtf8(absl::string_view bytes);

// `bytes` where they are UTF-8, else all that is not ASCII as \x escapes.
std::string ToUtf8(absl::string_view bytes);

// `bytes` as they may be printed on one line of a terminal: control characters
// (of ASCII, DEL, and U+0080..U+009F) and what is not UTF-8 as \n, \r, \t or
// \xNN for each byte. All else, a backslash too, stays as it is.
std::string ToPrintable(absl::string_view bytes);

}  // namespace finetune

#endif  // COMMON_UTF8_H_
