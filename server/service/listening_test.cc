#include "server/service/listening.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/testing/certificates.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/health_check_service_interface.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::CertificateAuthority;
using ::testing::HasSubstr;
using testing::Identity;
using testing::IsOk;
using ::testing::Not;
using testing::StatusIs;
using testing::TempDir;

// A client that does not speak as gRPC's do.
class RawClient {
 public:
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience = {.tv_sec = 30};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in to = {.sin_family = AF_INET,
                      .sin_port = htons(static_cast<uint16_t>(port))};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    connected_ =
        connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  ~RawClient() { close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // HTTP/2's preface and an empty SETTINGS frame.
  void Greet() {
    Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    SendFrame(/*type=*/4, "");
  }
  void SendFrame(char type, const std::string& payload) {
    const char size = static_cast<char>(payload.size());
    Send(std::string({0, 0, size, type, 0, 0, 0, 0, 0}) + payload);
  }
  void Send(const std::string& bytes) {
    send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  // All that comes until the server closes; adds "(timeout)" if it does not.
  std::string ReadToEnd() {
    std::string all;
    char buffer[4096];
    ssize_t size;
    while ((size = recv(fd_, buffer, sizeof(buffer), 0)) > 0) {
      all.append(buffer, size);
    }
    return size == 0 || errno == ECONNRESET ? all : all + "(timeout)";
  }

  bool connected() const { return connected_; }

 private:
  const int fd_;
  bool connected_ = false;
};

// A server that has nothing but health.
class ListeningTest : public ::testing::Test {
 protected:
  ListeningTest() {
    options_.address = "127.0.0.1:0";
    options_.tls_refresh_seconds = 1;
  }

  absl::Status Listen() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    const absl::Status configured =
        ConfigureListening(options_, builder, &port_);
    if (!configured.ok()) return configured;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    return server_ ? absl::OkStatus() : absl::UnavailableError("not started");
  }

  void UseTls(const Identity& identity) {
    options_.tls.certificate = dir_.Write("cert.pem", identity.certificate);
    options_.tls.key = dir_.Write("key.pem", identity.key);
  }

  static std::shared_ptr<grpc::ChannelCredentials> Tls(
      const CertificateAuthority& authority, const Identity& client = {}) {
    return grpc::SslCredentials({.pem_root_certs = authority.certificate(),
                                 .pem_private_key = client.key,
                                 .pem_cert_chain = client.certificate});
  }

  // Asks for the server's health. With `patient`, tries until it gets through.
  absl::Status Probe(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials,
      bool patient = false, const std::string& metadata = "") {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
    const auto stub =
        grpc::health::v1::Health::NewStub(grpc::CreateCustomChannel(
            absl::StrCat("127.0.0.1:", port_), credentials, arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::seconds(30));
    context.set_wait_for_ready(patient);
    if (!metadata.empty()) context.AddMetadata("x-noise", metadata);
    grpc::health::v1::HealthCheckResponse response;
    return FromGrpcStatus(stub->Check(&context, {}, &response));
  }
  absl::Status ProbePlain(const std::string& metadata = "") {
    return Probe(grpc::InsecureChannelCredentials(), false, metadata);
  }

  const TempDir dir_;
  const CertificateAuthority authority_;
  ListenOptions options_;
  int port_ = 0;
  v1::InferenceService::CallbackService service_;  // A builder wants one.
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ListeningTest, LoopbackNeedsNothing) {
  ASSERT_THAT(Listen(), IsOk());
  EXPECT_THAT(ProbePlain(), IsOk());
}

TEST_F(ListeningTest, NetworkNeedsTlsAndTokensOrClientCertificates) {
  struct Case {
    const char* address;
    bool tls, tokens, client_ca, insecure, allowed;
  };
  const Case cases[] = {
      {"127.0.0.1:1", false, false, false, false, true},
      {"unix:/run/f.sock", false, false, false, false, true},
      {"0.0.0.0:1", false, false, false, false, false},
      {"[::]:1", false, true, false, false, false},
      {"10.1.2.3:1", true, false, false, false, false},
      {"example.org:1", true, true, false, false, true},
      {"0.0.0.0:1", true, false, true, false, true},
      {"0.0.0.0:1", false, false, false, true, true},
  };
  for (const Case& c : cases) {
    ListenOptions options{.address = c.address,
                          .has_tokens = c.tokens,
                          .insecure_bind = c.insecure};
    if (c.tls) options.tls = {.certificate = "cert.pem", .key = "key.pem"};
    if (c.client_ca) options.tls.client_ca = "ca.pem";
    const absl::Status status = CheckBinding(options);
    EXPECT_EQ(status.ok(), c.allowed) << c.address << " " << status;
    if (c.allowed) continue;
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("--token_file"), HasSubstr("--insecure_bind")));
    EXPECT_EQ(absl::StrContains(status.message(), "--tls_cert"), !c.tls);
  }
}

TEST_F(ListeningTest, OpenAddressIsRefusedBeforeItIsBound) {
  options_.address = "0.0.0.0:0";
  EXPECT_THAT(Listen(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ListeningTest, TlsServesThoseWhoTrustItAndNotPlaintext) {
  UseTls(authority_.Issue("server"));
  ASSERT_THAT(Listen(), IsOk());
  EXPECT_THAT(Probe(Tls(authority_)), IsOk());
  EXPECT_THAT(ProbePlain(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Probe(Tls(CertificateAuthority())),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ListeningTest, MutualTlsAsksForACertificateOfItsAuthority) {
  const CertificateAuthority clients, strangers;
  UseTls(authority_.Issue("server"));
  options_.tls.client_ca = dir_.Write("ca.pem", clients.certificate());
  ASSERT_THAT(Listen(), IsOk());
  EXPECT_THAT(Probe(Tls(authority_, clients.Issue("friend"))), IsOk());
  EXPECT_THAT(Probe(Tls(authority_)), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Probe(Tls(authority_, strangers.Issue("stranger"))),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ListeningTest, RotatedCertificateIsServedWithoutARestart) {
  const CertificateAuthority next;
  UseTls(authority_.Issue("server"));
  ASSERT_THAT(Listen(), IsOk());
  EXPECT_THAT(Probe(Tls(authority_)), IsOk());
  EXPECT_THAT(Probe(Tls(next)), StatusIs(absl::StatusCode::kUnavailable));
  UseTls(next.Issue("server"));
  EXPECT_THAT(Probe(Tls(next), /*patient=*/true), IsOk());
}

TEST_F(ListeningTest, RotatedClientAuthorityCountsWithoutARestart) {
  const CertificateAuthority next;
  UseTls(authority_.Issue("server"));
  options_.tls.client_ca = dir_.Write("ca.pem", authority_.certificate());
  ASSERT_THAT(Listen(), IsOk());
  dir_.Write("ca.pem", next.certificate());
  EXPECT_THAT(Probe(Tls(authority_, next.Issue("new")), /*patient=*/true),
              IsOk());
  EXPECT_THAT(Probe(Tls(authority_, authority_.Issue("old"))),
              StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ListeningTest, BrokenFileStopsNewConnectionsUntilItIsRepaired) {
  const Identity identity = authority_.Issue("server");
  UseTls(identity);
  ASSERT_THAT(Listen(), IsOk());
  dir_.Write("cert.pem", "no PEM");
  while (Probe(Tls(authority_)).ok()) {
  }
  UseTls(identity);
  EXPECT_THAT(Probe(Tls(authority_), /*patient=*/true), IsOk());
}

TEST_F(ListeningTest, BrokenFilesAreSaidAtTheStart) {
  const Identity one = authority_.Issue("one");
  const Identity two = authority_.Issue("two");
  const auto cert = dir_.Write("one.pem", one.certificate);
  const auto key = dir_.Write("one.key", one.key);
  const auto other_key = dir_.Write("two.key", two.key);
  const auto junk = dir_.Write("junk.pem", "no PEM");
  const auto none = dir_.path() / "none.pem";
  const struct {
    TlsFiles files;
    const char* message;
  } cases[] = {
      {{cert, {}, {}}, "both --tls_cert and --tls_key"},
      {{{}, key, {}}, "both --tls_cert and --tls_key"},
      {{{}, {}, cert}, "both --tls_cert and --tls_key"},
      {{none, key, {}}, "--tls_cert"},
      {{junk, key, {}}, "holds no certificate"},
      {{cert, junk, {}}, "holds no private key"},
      {{cert, none, {}}, "--tls_key"},
      {{cert, other_key, {}}, "is not the key of the certificate"},
      {{cert, key, junk}, "--tls_client_ca"},
      {{cert, key, none}, "--tls_client_ca"},
  };
  for (const auto& c : cases) {
    options_.tls = c.files;
    const absl::Status status = Listen();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(c.message), Not(HasSubstr("\n"))));
  }
}

TEST_F(ListeningTest, HugeMetadataIsRefusedAndTheServerLives) {
  ASSERT_THAT(Listen(), IsOk());
  EXPECT_THAT(ProbePlain(std::string(4 << 10, 'x')), IsOk());
  EXPECT_THAT(ProbePlain(std::string(16 << 10, 'x')),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_FALSE(ProbePlain(std::string(4 << 20, 'x')).ok());
  EXPECT_THAT(ProbePlain(), IsOk());
}

TEST_F(ListeningTest, FloodOfLargeRequestsIsBoundedAndTheServerLives) {
  options_.max_receive_bytes = 16 << 20;
  ASSERT_THAT(Listen(), IsOk());
  const auto flood = [this] {
    grpc::ChannelArguments own_connection;
    own_connection.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto stub = v1::InferenceService::NewStub(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", port_), grpc::InsecureChannelCredentials(),
        own_connection));
    v1::ClassifyRequest request;
    request.add_images(std::string(12 << 20, 'x'));
    v1::ClassifyResponse response;
    grpc::ClientContext context;
    return stub->Classify(&context, request, &response).error_code();
  };
  std::vector<std::future<grpc::StatusCode>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::async(std::launch::async, flood));
  }
  int refused = 0;
  for (auto& call : calls) {
    refused += call.get() != grpc::StatusCode::UNIMPLEMENTED;
  }
  EXPECT_GT(refused, 0);
  EXPECT_THAT(Probe(grpc::InsecureChannelCredentials(), /*patient=*/true),
              IsOk());
}

TEST_F(ListeningTest, PingFloodIsSentAwayAndOthersAreServed) {
  ASSERT_THAT(Listen(), IsOk());
  RawClient client(port_);
  ASSERT_TRUE(client.connected());
  client.Greet();
  for (int i = 0; i < 100; ++i) client.SendFrame(/*type=*/6, "12345678");
  EXPECT_THAT(ProbePlain(), IsOk());
  EXPECT_THAT(client.ReadToEnd(),
              AllOf(HasSubstr("too_many_pings"), Not(HasSubstr("(timeout)"))));
}

TEST_F(ListeningTest, ClientsThatStallAreClosedAndOthersAreServed) {
  options_.handshake_timeout = absl::Milliseconds(200);
  ASSERT_THAT(Listen(), IsOk());
  std::vector<std::unique_ptr<RawClient>> clients;
  for (const char* bytes :
       {"", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}) {
    for (int i = 0; i < 20; ++i) {
      clients.push_back(std::make_unique<RawClient>(port_));
      ASSERT_TRUE(clients.back()->connected());
      clients.back()->Send(bytes);
    }
  }
  EXPECT_THAT(Probe(grpc::InsecureChannelCredentials(), /*patient=*/true),
              IsOk());
  for (const auto& client : clients) {
    EXPECT_THAT(client->ReadToEnd(), Not(HasSubstr("(timeout)")));
  }
}

TEST_F(ListeningTest, ClientThatStallsBeforeTlsIsClosed) {
  UseTls(authority_.Issue("server"));
  options_.handshake_timeout = absl::Milliseconds(200);
  ASSERT_THAT(Listen(), IsOk());
  RawClient client(port_);
  client.Send("\x16\x03\x01");
  EXPECT_THAT(Probe(Tls(authority_), /*patient=*/true), IsOk());
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("(timeout)")));
}

TEST_F(ListeningTest, ClientThatAnswersNoPingIsClosed) {
  options_.keepalive_time = absl::Milliseconds(100);
  options_.keepalive_timeout = absl::Milliseconds(100);
  ASSERT_THAT(Listen(), IsOk());
  RawClient client(port_);
  client.Greet();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("(timeout)")));
}

TEST_F(ListeningTest, IdleConnectionIsClosed) {
  options_.max_idle = absl::Milliseconds(100);
  ASSERT_THAT(Listen(), IsOk());
  RawClient client(port_);
  client.Greet();
  EXPECT_THAT(client.ReadToEnd(),
              AllOf(HasSubstr("enter idle"), Not(HasSubstr("(timeout)"))));
}

}  // namespace
}  // namespace finetune
