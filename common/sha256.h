// SHA-256, by OpenSSL.

#ifndef COMMON_SHA256_H_
#define COMMON_SHA256_H_

#include <string>

#include "absl/strings/string_view.h"
#include "openssl/types.h"

namespace finetune {

// 64 lower-case hexadecimal digits.
std::string Sha256Hex(absl::string_view bytes);

// The same, of bytes that come piece by piece. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(absl::string_view bytes);

  // Once, at the end.
  std::string Hex();

 private:
  EVP_MD_CTX* const context_;
};

}  // namespace finetune

#endif  // COMMON_SHA256_H_
