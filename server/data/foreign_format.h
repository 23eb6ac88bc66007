// What a file is that is none of the images which can be decoded.

#ifndef SERVER_DATA_FOREIGN_FORMAT_H_
#define SERVER_DATA_FOREIGN_FORMAT_H_

#include "absl/strings/string_view.h"

namespace finetune {

// What the first bytes look like, with an article: "a GIF image", "a Git LFS
// pointer", "base64 text", ...; empty if they look like nothing known. Looks at
// no more than 512 bytes.
absl::string_view LooksLike(absl::string_view bytes);

}  // namespace finetune

#endif  // SERVER_DATA_FOREIGN_FORMAT_H_
