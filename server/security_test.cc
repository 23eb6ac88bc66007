// Who may reach the whole server, and how.

#include <memory>
#include <string>

#include "common/grpc_status.h"
#include "common/testing/certificates.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "server/service/testing/methods.h"

namespace finetune {
namespace {

using testing::CallAny;
using testing::CertificateAuthority;
using testing::ExpectOfEveryMethod;
using ::testing::HasSubstr;
using testing::Identity;
using testing::IsOk;
using ::testing::IsSupersetOf;
using testing::ServicesOf;
using testing::StatusIs;
using testing::TempDir;

constexpr char kAdminToken[] = "admin-0123456789abcdef";
constexpr char kClassifyToken[] = "classify-0123456789abcdef";

class SecurityTest : public ::testing::Test {
 protected:
  SecurityTest() {
    options_.address = "127.0.0.1:0";
    options_.state_dir = dir_.path() / "state";
    options_.data_root = dir_.path();
    options_.device = "cpu";
    options_.token_file =
        dir_.Write("tokens", std::string("admin ") + kAdminToken +
                                 "\nclassify " + kClassifyToken);
  }

  const TempDir dir_;
  ServerOptions options_;
};

TEST_F(SecurityTest, EveryMethodAsksForATokenOfTheRightRole) {
  const auto server = Server::Start(options_);
  ASSERT_THAT(server, IsOk());
  const auto channel = grpc::CreateChannel((*server)->address(),
                                           grpc::InsecureChannelCredentials());
  EXPECT_THAT(ServicesOf(channel),
              IsSupersetOf({"finetune.v1.TrainingService",
                            "finetune.v1.InferenceService"}));
  ExpectOfEveryMethod(channel, Role::kClassify, "",
                      absl::StatusCode::kUnauthenticated);
  ExpectOfEveryMethod(channel, Role::kAdmin, kClassifyToken,
                      absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(CallAny(channel, "/grpc.health.v1.Health/Check", ""), IsOk());
  EXPECT_THAT(
      CallAny(channel, "/finetune.v1.TrainingService/GetProgress", kAdminToken),
      StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(SecurityTest, NetworkIsRefusedWithoutTlsAndServedWithIt) {
  options_.address = "0.0.0.0:0";
  const auto refused = Server::Start(options_);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--tls_cert"));

  const CertificateAuthority authority;
  const Identity identity = authority.Issue("server");
  options_.tls_cert = dir_.Write("cert.pem", identity.certificate);
  options_.tls_key = dir_.Write("key.pem", identity.key);
  const auto server = Server::Start(options_);
  ASSERT_THAT(server, IsOk());
  const std::string port =
      (*server)->address().substr((*server)->address().rfind(':'));
  const auto channel = grpc::CreateChannel(
      "127.0.0.1" + port,
      grpc::SslCredentials({.pem_root_certs = authority.certificate()}));
  EXPECT_THAT(CallAny(channel, "/finetune.v1.InferenceService/Classify",
                      kClassifyToken),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(SecurityTest, UnixSocketIsServedAndKeepsItsName) {
  options_.address = "unix:" + (dir_.path() / "socket").string();
  const auto server = Server::Start(options_);
  ASSERT_THAT(server, IsOk());
  EXPECT_EQ((*server)->address(), options_.address);
  EXPECT_THAT(CallAny(grpc::CreateChannel(options_.address,
                                          grpc::InsecureChannelCredentials()),
                      "/grpc.health.v1.Health/Check", ""),
              IsOk());
}

TEST_F(SecurityTest, BrokenTokenFileKeepsTheServerFromStarting) {
  dir_.Write("tokens", "admin");
  EXPECT_THAT(Server::Start(options_),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace finetune
