// TLS for the server, from PEM files that may be replaced while it runs.

#ifndef SERVER_SERVICE_CREDENTIALS_H_
#define SERVER_SERVICE_CREDENTIALS_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

struct TlsFiles {
  std::filesystem::path certificate;  // The server's, then its issuers.
  std::filesystem::path key;          // Of the first certificate; no password.
  // Where set (mTLS), a client must show a certificate that one of these
  // issued.
  std::filesystem::path client_ca;
};

// Plain credentials where no file is set; else TLS 1.2 or 1.3. The files are
// looked at every `refresh_seconds`, >= 1; a connection that starts later sees
// the new ones, others go on. Replace key and certificate one right after the
// other: between them, and while a file is broken, new connections fail.
//
// FAILED_PRECONDITION with one line that says what is wrong: one file without
// the other, a file that is absent or not PEM, a key of another certificate.
// A key that others may read is warned about in the log.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, unsigned refresh_seconds = 10);

}  // namespace finetune

#endif  // SERVER_SERVICE_CREDENTIALS_H_
