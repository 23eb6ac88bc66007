// SHA-256, by OpenSSL.

#ifndef SERVER_MODEL_SHA256_H_
#define SERVER_MODEL_SHA256_H_

#include <string>

#include "absl/strings/string_view.h"

namespace finetune {

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

}  // namespace finetune

#endif  // SERVER_MODEL_SHA256_H_
