#include "client/connection.h"

#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/jobs.h"
#include "client/training.h"
#include "common/testing/certificates.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::CertificateAuthority;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::Identity;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;
using testing::TempDir;

constexpr char kToken[] = "token-0123456789abcdef";

// Remembers what came as `authorization` with each call.
class FakeTraining final : public v1::TrainingService::Service {
 public:
  grpc::Status StartFineTune(grpc::ServerContext* context,
                             const v1::StartFineTuneRequest*,
                             v1::StartFineTuneResponse*) override {
    return Remember(*context);
  }
  grpc::Status GetProgress(grpc::ServerContext* context,
                           const v1::GetProgressRequest*,
                           v1::GetProgressResponse*) override {
    return Remember(*context);
  }
  grpc::Status WatchProgress(
      grpc::ServerContext* context, const v1::WatchProgressRequest*,
      grpc::ServerWriter<v1::WatchProgressResponse>* writer) override {
    v1::WatchProgressResponse response;
    response.mutable_job()->set_state(v1::JOB_STATE_SUCCEEDED);
    writer->Write(response);
    return Remember(*context);
  }
  grpc::Status ListFineTunes(grpc::ServerContext* context,
                             const v1::ListFineTunesRequest*,
                             v1::ListFineTunesResponse*) override {
    return Remember(*context);
  }
  grpc::Status CancelFineTune(grpc::ServerContext* context,
                              const v1::CancelFineTuneRequest*,
                              v1::CancelFineTuneResponse*) override {
    return Remember(*context);
  }
  grpc::Status ResumeFineTune(grpc::ServerContext* context,
                              const v1::ResumeFineTuneRequest*,
                              v1::ResumeFineTuneResponse*) override {
    return Remember(*context);
  }

  std::vector<std::string> tokens;

 private:
  grpc::Status Remember(const grpc::ServerContext& context) {
    const auto found = context.client_metadata().find("authorization");
    tokens.push_back(
        found == context.client_metadata().end()
            ? "none"
            : std::string(found->second.data(), found->second.size()));
    return grpc::Status::OK;
  }
};

class ConnectionTest : public ::testing::Test {
 protected:
  void Serve(const std::shared_ptr<grpc::ServerCredentials>& credentials) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", credentials, &port);
    builder.RegisterService(&training_);
    server_ = builder.BuildAndStart();
    connection_.server = absl::StrCat("127.0.0.1:", port);
  }
  void ServeTls(const Identity& identity, const std::string& client_ca = "") {
    grpc::SslServerCredentialsOptions options(
        client_ca.empty()
            ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
            : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_root_certs = client_ca;
    options.pem_key_cert_pairs = {{identity.key, identity.certificate}};
    Serve(grpc::SslServerCredentials(options));
  }

  // Connects and asks for a job.
  ExitCode Ask() {
    EXPECT_THAT(Connect(connection_), IsOk());
    return ShowJob(connection_, "ft-1", out_, err_);
  }

  const TempDir dir_;
  const CertificateAuthority authority_;
  FakeTraining training_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  std::ostringstream out_, err_;
};

TEST_F(ConnectionTest, TokenGoesWithEveryCall) {
  Serve(grpc::InsecureServerCredentials());
  connection_.access.token_file =
      dir_.Write("token", absl::StrCat(kToken, "\n"));
  ASSERT_THAT(Connect(connection_), IsOk());
  StartJob(connection_, {}, false, {}, out_, err_);
  ShowJob(connection_, "ft-1", out_, err_);
  WatchJob(connection_, "ft-1", {}, out_, err_);
  ListJobs(connection_, {}, out_, err_);
  CancelJob(connection_, "ft-1", out_, err_);
  ResumeJob(connection_, "ft-1", false, {}, out_, err_);
  EXPECT_EQ(err_.str(), "");
  EXPECT_THAT(training_.tokens, SizeIs(6));
  EXPECT_THAT(training_.tokens, Each(absl::StrCat("Bearer ", kToken)));
}

TEST_F(ConnectionTest, OfAServersTokenFileTheFirstAdminTokenIsSent) {
  Serve(grpc::InsecureServerCredentials());
  connection_.access.token_file =
      dir_.Write("tokens",
                 "# Who may call.\n\n"
                 "classify classify-0123456789abcdef\n"
                 "admin token-0123456789abcdef\r\n"
                 "admin another-0123456789abcdef\n");
  EXPECT_EQ(Ask(), kDone);
  EXPECT_THAT(training_.tokens,
              ::testing::ElementsAre(absl::StrCat("Bearer ", kToken)));
}

TEST_F(ConnectionTest, OfAServersTokenFileWithoutAdminTheFirstTokenIsSent) {
  Serve(grpc::InsecureServerCredentials());
  connection_.access.token_file =
      dir_.Write("tokens",
                 "classify token-0123456789abcdef\n"
                 "classify another-0123456789abcdef\n");
  EXPECT_EQ(Ask(), kDone);
  EXPECT_THAT(training_.tokens,
              ::testing::ElementsAre(absl::StrCat("Bearer ", kToken)));
}

TEST_F(ConnectionTest, WithoutATokenNoneIsSent) {
  Serve(grpc::InsecureServerCredentials());
  EXPECT_EQ(Ask(), kDone);
  EXPECT_THAT(training_.tokens, ::testing::ElementsAre("none"));
}

TEST_F(ConnectionTest, TokenIsNotSentInTheClearToAnotherMachine) {
  connection_.access.token = kToken;
  connection_.server = "example.org:50051";
  const absl::Status refused = Connect(connection_);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--tls"));
  EXPECT_EQ(connection_.channel, nullptr);
  connection_.access.tls = true;
  EXPECT_THAT(Connect(connection_), IsOk());
}

TEST_F(ConnectionTest, TlsTrustsTheAuthorityThatIsNamedAndNoOther) {
  ServeTls(authority_.Issue("server"));
  connection_.access.token = kToken;
  connection_.access.ca = dir_.Write("ca.pem", authority_.certificate());
  EXPECT_EQ(Ask(), kDone);
  connection_.access.ca =
      dir_.Write("other.pem", CertificateAuthority().certificate());
  EXPECT_EQ(Ask(), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("running there, with TLS?"));
}

TEST_F(ConnectionTest, PlaintextToATlsServerFailsWithAHint) {
  ServeTls(authority_.Issue("server"));
  EXPECT_EQ(Ask(), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("running there, without TLS?"));
}

TEST_F(ConnectionTest, ServerNameMustBeInTheCertificate) {
  ServeTls(authority_.Issue("finetuned.test"));
  connection_.access.ca = dir_.Write("ca.pem", authority_.certificate());
  connection_.access.server_name = "finetuned.test";
  EXPECT_EQ(Ask(), kDone);
  connection_.access.server_name = "another.test";
  EXPECT_EQ(Ask(), kUnreachable);
}

TEST_F(ConnectionTest, MutualTlsShowsTheClientsCertificate) {
  const CertificateAuthority clients;
  ServeTls(authority_.Issue("server"), clients.certificate());
  connection_.access.ca = dir_.Write("ca.pem", authority_.certificate());
  EXPECT_EQ(Ask(), kUnreachable);
  const Identity me = clients.Issue("me");
  connection_.access.certificate = dir_.Write("me.pem", me.certificate);
  connection_.access.key = dir_.Write("me.key", me.key);
  EXPECT_EQ(Ask(), kDone);
}

TEST_F(ConnectionTest, BadFilesAndTokensAreSaid) {
  const struct {
    Access access;
    const char* message;
  } cases[] = {
      {{.ca = "/none/ca.pem"}, "--tls-ca: open /none/ca.pem"},
      {{.certificate = "/none/me.pem"}, "together"},
      {{.token_file = "/none/token"}, "--token-file"},
      {{.token_file = dir_.Write("empty", "\n")}, "must hold a token alone"},
      {{.token_file = dir_.Write("two", "# Ours.\ntoken-0123456789abcdef")},
       "must hold a token alone"},
      {{.token_file = dir_.Write("role", "admin short")}, "line 1"},
      {{.token = "short"}, "FINETUNE_TOKEN must hold"},
  };
  for (const auto& c : cases) {
    connection_.access = c.access;
    const absl::Status status = Connect(connection_);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST_F(ConnectionTest, TlsFileThatIsWrongIsNamedBeforeThereIsAChannel) {
  connection_.access.ca = dir_.Write("ca.pem", "no certificate");
  const absl::Status status = Connect(connection_);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("ca.pem: holds no certificate in PEM"));
  EXPECT_EQ(connection_.channel, nullptr);
}

TEST(FinishOutputTest, OutputThatCannotBeWrittenIsAFailure) {
  std::ostringstream err;
  std::ofstream full("/dev/full");
  full << "x";
  EXPECT_EQ(FinishOutput(kDone, full, err), kFailed);
  EXPECT_EQ(err.str(),
            "finetune: the output cannot be written: "
            "No space left on device\n");
}

TEST(FinishOutputTest, EarlierFailureIsNotForgottenAndOtherCodesStay) {
  std::ostringstream err;
  std::ofstream full("/dev/full");
  full << "x" << std::flush;
  EXPECT_EQ(FinishOutput(kDone, full, err), kFailed);
  EXPECT_EQ(FinishOutput(kUnreachable, full, err), kUnreachable);
  EXPECT_THAT(err.str(), HasSubstr("finetune: the output cannot be written"));
}

TEST(FinishOutputTest, WrittenOutputLeavesTheCode) {
  std::ostringstream out, err;
  out << "x";
  EXPECT_EQ(FinishOutput(kDone, out, err), kDone);
  EXPECT_EQ(FinishOutput(kUsage, out, err), kUsage);
  EXPECT_EQ(err.str(), "");
}

}  // namespace
}  // namespace finetune
