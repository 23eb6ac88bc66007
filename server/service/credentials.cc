#include "server/service/credentials.h"

#include <sys/stat.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "openssl/err.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

using pem::Bio;
using pem::Certificate;
using pem::Key;
using pem::NoPassword;

absl::Status Broken(const char* flag, const std::filesystem::path& file,
                    absl::string_view problem) {
  ERR_clear_error();
  return absl::FailedPreconditionError(
      absl::StrCat(flag, " ", file.native(), ": ", problem));
}

absl::StatusOr<Bio> OpenPem(const char* flag,
                            const std::filesystem::path& file) {
  const absl::StatusOr<std::string> content = ReadFile(file, pem::kMaxBytes);
  if (!content.ok()) return Broken(flag, file, content.status().message());
  Bio bio(BIO_new(BIO_s_mem()));
  BIO_write(bio.get(), content->data(), static_cast<int>(content->size()));
  return bio;
}

// The first certificate of the file.
absl::StatusOr<Certificate> ReadCertificate(const char* flag,
                                            const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const Bio bio, OpenPem(flag, file));
  Certificate certificate(
      PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr));
  if (certificate == nullptr) {
    return Broken(flag, file, "holds no certificate in PEM");
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    spdlog::warn("{} {}: the certificate has expired", flag, file.native());
  }
  return certificate;
}

absl::StatusOr<Key> ReadKey(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const Bio bio, OpenPem("--tls_key", file));
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
  if (key == nullptr) {
    return Broken("--tls_key", file, "holds no private key without password");
  }
  struct stat s;
  if (stat(file.c_str(), &s) == 0 && (s.st_mode & S_IROTH) != 0) {
    spdlog::warn(
        "--tls_key {}: every user of this machine may read it; "
        "chmod o-r",
        file.native());
  }
  return key;
}

absl::Status CheckFiles(const TlsFiles& files) {
  if (files.certificate.empty() || files.key.empty()) {
    return absl::FailedPreconditionError(
        "TLS needs both --tls_cert and --tls_key");
  }
  ASSIGN_OR_RETURN(const Certificate certificate,
                   ReadCertificate("--tls_cert", files.certificate));
  ASSIGN_OR_RETURN(const Key key, ReadKey(files.key));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Broken("--tls_key", files.key,
                  absl::StrCat("is not the key of the certificate in ",
                               files.certificate.native()));
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("--tls_client_ca", files.client_ca).status();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files, unsigned refresh_seconds) {
  const bool verifies_clients = !files.client_ca.empty();
  if (files.certificate.empty() && files.key.empty() && !verifies_clients) {
    return grpc::InsecureServerCredentials();
  }
  RETURN_IF_ERROR(CheckFiles(files));
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, refresh_seconds));
  options.watch_identity_key_cert_pairs();
  if (verifies_clients) {
    options.watch_root_certs();
    options.set_cert_request_type(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace finetune
