#include "client/tls_files.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/pem.h"
#include "common/status_macros.h"
#include "openssl/err.h"

namespace finetune {
namespace {

using pem::Bio;
using pem::Certificate;
using pem::Key;
using pem::NoPassword;

absl::Status Broken(const char* flag, const std::string& file,
                    absl::string_view problem) {
  ERR_clear_error();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", file, ": ", problem));
}

// The file's content; empty without a file.
absl::StatusOr<std::string> ReadOptional(const char* flag,
                                         const std::string& file) {
  if (file.empty()) return std::string();
  absl::StatusOr<std::string> content = ReadFile(file, pem::kMaxBytes);
  if (content.ok()) return content;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": ", content.status().message()));
}

Bio OpenPem(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// The first certificate of `pem`, the content of `file`, where all that are in
// it can be read.
absl::StatusOr<Certificate> ReadCertificates(const char* flag,
                                             const std::string& file,
                                             const std::string& pem) {
  const Bio bio = OpenPem(pem);
  Certificate first;
  ERR_clear_error();
  while (true) {
    Certificate next(
        PEM_read_bio_X509_AUX(bio.get(), nullptr, NoPassword, nullptr));
    if (next == nullptr) break;
    if (first == nullptr) first = std::move(next);
  }
  const auto error = ERR_peek_last_error();
  if (first == nullptr) {
    return Broken(flag, file, "holds no certificate in PEM");
  }
  if (ERR_GET_LIB(error) != ERR_LIB_PEM ||
      ERR_GET_REASON(error) != PEM_R_NO_START_LINE) {
    return Broken(flag, file, "holds a certificate that cannot be read");
  }
  ERR_clear_error();
  return first;
}

absl::Status CheckIdentity(const Access& access, const PemFiles& files) {
  ASSIGN_OR_RETURN(
      const Certificate certificate,
      ReadCertificates("--tls-cert", access.certificate, files.certificate));
  const Key key(PEM_read_bio_PrivateKey(OpenPem(files.key).get(), nullptr,
                                        NoPassword, nullptr));
  if (key == nullptr) {
    return Broken("--tls-key", access.key,
                  "holds no private key without password");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Broken("--tls-key", access.key,
                  absl::StrCat("is not the key of the certificate in ",
                               access.certificate));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PemFiles> ReadTlsFiles(const Access& access) {
  if (access.certificate.empty() != access.key.empty()) {
    return absl::InvalidArgumentError(
        "--tls-cert and --tls-key must be given together");
  }
  PemFiles files;
  ASSIGN_OR_RETURN(files.ca, ReadOptional("--tls-ca", access.ca));
  ASSIGN_OR_RETURN(files.certificate,
                   ReadOptional("--tls-cert", access.certificate));
  ASSIGN_OR_RETURN(files.key, ReadOptional("--tls-key", access.key));
  if (!access.ca.empty()) {
    RETURN_IF_ERROR(ReadCertificates("--tls-ca", access.ca, files.ca).status());
  }
  if (!access.certificate.empty()) {
    RETURN_IF_ERROR(CheckIdentity(access, files));
  }
  return files;
}

}  // namespace finetune
