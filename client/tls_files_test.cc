#include "client/tls_files.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/testing/certificates.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::CertificateAuthority;
using ::testing::HasSubstr;
using testing::Identity;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

class TlsFilesTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& content) {
    return dir_.Write(name, content);
  }
  // What is wrong with the files.
  static std::string ErrorOf(const Access& access) {
    const absl::Status status = ReadTlsFiles(access).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    return std::string(status.message());
  }

  const TempDir dir_;
  const CertificateAuthority authority_;
  const Identity me_ = authority_.Issue("me");
  const std::string ca_ = Write("ca.pem", authority_.certificate());
  const std::string certificate_ = Write("me.pem", me_.certificate);
  const std::string key_ = Write("me.key", me_.key);
};

TEST_F(TlsFilesTest, GoodFilesAreReadAndNoneAreNeeded) {
  const auto files =
      ReadTlsFiles({.ca = ca_, .certificate = certificate_, .key = key_});
  ASSERT_THAT(files, IsOk());
  EXPECT_EQ(files->ca, authority_.certificate());
  EXPECT_EQ(files->certificate, me_.certificate);
  EXPECT_EQ(files->key, me_.key);
  EXPECT_THAT(ReadTlsFiles({.tls = true}), IsOk());
}

TEST_F(TlsFilesTest, ManyCertificatesAndTextBetweenThemAreTaken) {
  const std::string many =
      absl::StrCat("# Ours.\n", authority_.certificate(), "# Theirs.\n",
                   CertificateAuthority().certificate(), "The end.\n");
  EXPECT_THAT(ReadTlsFiles({.ca = Write("many.pem", many)}), IsOk());
  const std::string chain =
      absl::StrCat(me_.certificate, authority_.certificate());
  EXPECT_THAT(
      ReadTlsFiles({.certificate = Write("chain.pem", chain), .key = key_}),
      IsOk());
}

TEST_F(TlsFilesTest, FileThatCannotBeReadIsNamed) {
  EXPECT_THAT(ErrorOf({.ca = "/none/ca"}),
              HasSubstr("--tls-ca: open /none/ca"));
  EXPECT_THAT(ErrorOf({.certificate = "/none/me", .key = key_}),
              HasSubstr("--tls-cert: open /none/me"));
  EXPECT_THAT(ErrorOf({.certificate = certificate_, .key = "/none/key"}),
              HasSubstr("--tls-key: open /none/key"));
  EXPECT_THAT(ErrorOf({.ca = dir_.path()}), HasSubstr(dir_.path().string()));
}

TEST_F(TlsFilesTest, FileThatIsNoPemIsNamed) {
  const std::string text = Write("text", "not PEM");
  const std::string empty = Write("empty", "");
  EXPECT_EQ(ErrorOf({.ca = text}),
            "--tls-ca " + text + ": holds no certificate in PEM");
  EXPECT_EQ(ErrorOf({.ca = empty}),
            "--tls-ca " + empty + ": holds no certificate in PEM");
  EXPECT_EQ(ErrorOf({.ca = key_}),
            "--tls-ca " + key_ + ": holds no certificate in PEM");
  EXPECT_EQ(ErrorOf({.certificate = text, .key = key_}),
            "--tls-cert " + text + ": holds no certificate in PEM");
  EXPECT_EQ(ErrorOf({.certificate = certificate_, .key = text}),
            "--tls-key " + text + ": holds no private key without password");
}

TEST_F(TlsFilesTest, DamagedCertificateBehindAGoodOneIsFound) {
  const std::string damaged =
      Write("damaged.pem", absl::StrCat(authority_.certificate(),
                                        "-----BEGIN CERTIFICATE-----\nMIIB\n"
                                        "-----END CERTIFICATE-----\n"));
  EXPECT_EQ(
      ErrorOf({.ca = damaged}),
      "--tls-ca " + damaged + ": holds a certificate that cannot be read");
}

TEST_F(TlsFilesTest, KeyOfAnotherCertificateIsNamed) {
  const std::string other = Write("other.key", authority_.Issue("other").key);
  EXPECT_EQ(ErrorOf({.certificate = certificate_, .key = other}),
            "--tls-key " + other + ": is not the key of the certificate in " +
                certificate_);
}

TEST_F(TlsFilesTest, CertificateAndKeyMustComeTogether) {
  EXPECT_THAT(ErrorOf({.certificate = certificate_}), HasSubstr("together"));
  EXPECT_THAT(ErrorOf({.key = key_}), HasSubstr("together"));
}

}  // namespace
}  // namespace finetune
