// OpenSSL's objects that PEM files hold, freed with their owners.

#ifndef COMMON_PEM_H_
#define COMMON_PEM_H_

#include <cstdint>
#include <memory>

#include "openssl/bio.h"
#include "openssl/pem.h"
#include "openssl/x509.h"

namespace finetune::pem {

inline constexpr uint64_t kMaxBytes = 1 << 20;  // Of a file.

template <auto free>
struct Free {
  void operator()(auto* object) const { free(object); }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

// Keeps OpenSSL from asking the terminal for a password.
inline int NoPassword(char*, int, int, void*) { return -1; }

}  // namespace finetune::pem

#endif  // COMMON_PEM_H_
