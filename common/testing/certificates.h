// X.509 certificates for tests of TLS: a certificate authority of their own and
// what it signs, with small elliptic-curve keys.

#ifndef COMMON_TESTING_CERTIFICATES_H_
#define COMMON_TESTING_CERTIFICATES_H_

#include <memory>
#include <string>

#include "openssl/bio.h"
#include "openssl/ec.h"
#include "openssl/evp.h"
#include "openssl/pem.h"
#include "openssl/x509.h"
#include "openssl/x509v3.h"

namespace finetune::testing {

// A certificate with its key, both as PEM.
struct Identity {
  std::string certificate;
  std::string key;
};

class CertificateAuthority {
 public:
  CertificateAuthority() : key_(EVP_EC_gen("P-256")) {
    certificate_ = Sign(key_.get(), "test authority", "CA:TRUE", nullptr);
  }

  std::string certificate() const { return ToPem(certificate_.get()); }

  // Good for 127.0.0.1, localhost and `name`. Each has a key of its own.
  Identity Issue(const std::string& name) const {
    const Key key(EVP_EC_gen("P-256"));
    const std::string names = "IP:127.0.0.1,DNS:localhost,DNS:" + name;
    const Certificate certificate =
        Sign(key.get(), name, "CA:FALSE", names.c_str());
    const Bio bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr,
                             nullptr);
    return {ToPem(certificate.get()), ContentOf(bio.get())};
  }

 private:
  template <auto free>
  struct Free {
    void operator()(auto* object) const { free(object); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
  using Certificate = std::unique_ptr<X509, Free<X509_free>>;
  using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;

  // Signed by this authority; by itself as long as there is no certificate_.
  Certificate Sign(EVP_PKEY* key, const std::string& name,
                   const char* constraints, const char* alt_names) const {
    constexpr long kHour = 3600;
    static long serial = 1;
    Certificate made(X509_new());
    X509_set_version(made.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), -kHour);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), 24 * kHour);
    X509_set_pubkey(made.get(), key);
    X509_NAME_add_entry_by_txt(
        X509_get_subject_name(made.get()), "CN", MBSTRING_ASC,
        reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509* const issuer = certificate_ ? certificate_.get() : made.get();
    X509_set_issuer_name(made.get(), X509_get_subject_name(issuer));
    AddExtension(made.get(), issuer, NID_basic_constraints, constraints);
    if (alt_names) {
      AddExtension(made.get(), issuer, NID_subject_alt_name, alt_names);
    }
    X509_sign(made.get(), key_.get(), EVP_sha256());
    return made;
  }

  static void AddExtension(X509* certificate, X509* issuer, int nid,
                           const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, &context, nid, value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }

  static std::string ToPem(X509* certificate) {
    const Bio bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509(bio.get(), certificate);
    return ContentOf(bio.get());
  }

  static std::string ContentOf(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return std::string(data, size);
  }

  const Key key_;
  Certificate certificate_;
};

}  // namespace finetune::testing

#endif  // COMMON_TESTING_CERTIFICATES_H_
