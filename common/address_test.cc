#include "common/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

TEST(IsLoopbackAddressTest, OnlyThisMachineCanReachTheseAddresses) {
  for (const char* address :
       {"127.0.0.1:50051", "127.0.0.1", "127.8.9.10:0", "localhost:50051",
        "LocalHost:1", "[::1]:50051", "::1", "[::ffff:127.0.0.1]:1",
        "unix:/run/finetuned.sock", "unix:relative.sock",
        "unix-abstract:finetuned"}) {
    EXPECT_TRUE(IsLoopbackAddress(address)) << address;
  }
}

TEST(IsLoopbackAddressTest, OthersCanReachTheseOrNobodyKnows) {
  for (const char* address :
       {"0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "128.0.0.1:1",
        "[fe80::1]:1", "[::ffff:10.0.0.1]:1", "example.org:50051",
        "localhost.example.org:1", "127.0.0.1.example.org:1",
        "dns:///localhost:50051", "ipv4:127.0.0.1:1", "[::1", "*:50051",
        ":50051", ""}) {
    EXPECT_FALSE(IsLoopbackAddress(address)) << address;
  }
}

TEST(CheckAddressTest, HostsWithAPortAndSocketsAreGood) {
  for (const char* address :
       {"127.0.0.1:0", "127.0.0.1:65535", "localhost:50051", "[::1]:50051",
        "[::]:80", "[fe80::1%eth0]:80", "photos_1.example-site.org:443",
        "unix:/run/finetuned.sock", "unix:relative.sock",
        "unix-abstract:finetuned"}) {
    EXPECT_THAT(CheckAddress(address), IsOk()) << address;
  }
}

TEST(CheckAddressTest, HostOrPortThatIsAbsentOrWrongIsOneLine) {
  for (const char* address : {"127.0.0.1:99999",
                              "127.0.0.1:65536",
                              "127.0.0.1",
                              "127.0.0.1:",
                              "127.0.0.1:http",
                              ":http",
                              ":80",
                              "",
                              ":",
                              "127.0.0.1:-1",
                              "127.0.0.1:+1",
                              "127.0.0.1: 1",
                              "127.0.0.1:1 ",
                              "127.0.0.1:0x50",
                              "127.0.0.1:99999999999999999999",
                              "::1:80",
                              "[::1]",
                              "[::1:80",
                              "[localhost]:80",
                              "[]:80",
                              "a b:80",
                              "a:80,b:80",
                              "ipv4:127.0.0.1:80",
                              "dns:///localhost:80",
                              "host\n:80",
                              "unix:",
                              "unix-abstract:"}) {
    const absl::Status refused = CheckAddress(address);
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
    EXPECT_EQ(refused.message().find('\n'), absl::string_view::npos);
  }
}

TEST(CheckAddressTest, OnlyHostsHavePorts) {
  EXPECT_THAT(CheckHostPort("127.0.0.1:9090"), IsOk());
  EXPECT_THAT(CheckHostPort("unix:/run/metrics.sock"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// Takes a free port of 127.0.0.1 and listens on it.
class CheckCanBindTest : public ::testing::Test {
 protected:
  CheckCanBindTest() {
    sockaddr_in address{.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(fd_, any, size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, any, &size), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }
  ~CheckCanBindTest() override { close(fd_); }

  // Why the address cannot be had.
  static std::string Reason(const std::string& address) {
    const absl::Status refused = CheckCanBind(address);
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable));
    return std::string(refused.message());
  }

  const int fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string address_;
};

TEST_F(CheckCanBindTest, PortThatIsFreeCanBeHad) {
  EXPECT_THAT(CheckCanBind("127.0.0.1:0"), IsOk());
  EXPECT_THAT(CheckCanBind("localhost:0"), IsOk());
  EXPECT_THAT(CheckCanBind("0.0.0.0:0"), IsOk());
}

TEST_F(CheckCanBindTest, PortOfAnotherServerIsInUse) {
  EXPECT_EQ(Reason(address_), absl::StrCat("cannot listen on ", address_,
                                           ": Address already in use"));
}

TEST_F(CheckCanBindTest, AddressOfAnotherMachineIsToldApart) {
  EXPECT_THAT(Reason("192.0.2.1:0"), HasSubstr("Cannot assign"));
}

TEST_F(CheckCanBindTest, NameThatDoesNotExistSaysSo) {
  EXPECT_THAT(Reason("no-such-host.invalid:1"),
              HasSubstr("cannot listen on no-such-host.invalid:1: "));
}

TEST_F(CheckCanBindTest, SocketLeavesNothingBehind) {
  const TempDir dir;
  const std::filesystem::path path = dir.path() / "socket";
  EXPECT_THAT(CheckCanBind("unix:" + path.string()), IsOk());
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THAT(Reason("unix:" + (dir.path() / "absent/socket").string()),
              HasSubstr("No such file"));
  EXPECT_THAT(Reason("unix:" + std::string(200, 'x')), HasSubstr("too long"));
  dir.Write("socket", "a file");
  EXPECT_THAT(Reason("unix:" + path.string()), HasSubstr("in use"));
  EXPECT_TRUE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace finetune
