// The PEM files that the client's TLS takes, checked before gRPC sees them: it
// would find what is wrong only when it connects, and name no file.

#ifndef CLIENT_TLS_FILES_H_
#define CLIENT_TLS_FILES_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/connection.h"

namespace finetune {

// Contents; empty where Access names no file.
struct PemFiles {
  std::string ca, certificate, key;
};

// INVALID_ARGUMENT, with the flag and the file, where one cannot be read, is
// not what it should be in PEM, or the key is not that of the certificate; and
// where one of those two is given alone.
absl::StatusOr<PemFiles> ReadTlsFiles(const Access& access);

}  // namespace finetune

#endif  // CLIENT_TLS_FILES_H_
