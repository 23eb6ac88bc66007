#include "common/address.h"

#include "gtest/gtest.h"

namespace finetune {
namespace {

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

}  // namespace
}  // namespace finetune
