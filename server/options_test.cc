#include "server/options.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;

class OptionsTest : public ::testing::Test {
 protected:
  // Why the settings are refused; empty: they are not.
  std::string Parse(std::vector<std::string> arguments) {
    CLI::App app;
    AddServerOptions(app, options_);
    std::reverse(arguments.begin(), arguments.end());
    try {
      app.parse(std::move(arguments));
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  }

  // The same for a file of --config.
  std::string ParseFile(const std::string& content) {
    return Parse({"--config", dir_.Write("settings", content)});
  }

  const TempDir dir_;
  ServerOptions options_;
};

TEST_F(OptionsTest, AddressesWithoutAGoodHostAndPortAreRefusedInOneLine) {
  for (const char* address :
       {"127.0.0.1:99999", "127.0.0.1", ":http", "::1:80", ""}) {
    EXPECT_THAT(Parse({"--address", address}),
                AllOf(HasSubstr("--address"), HasSubstr("HOST:PORT"),
                      Not(HasSubstr("\n"))))
        << address;
  }
  for (const char* address : {"127.0.0.1:99999", ":90", "unix:/socket"}) {
    EXPECT_THAT(Parse({"--metrics_address", address}),
                AllOf(HasSubstr("--metrics_address"), HasSubstr("HOST:PORT")))
        << address;
  }
}

TEST_F(OptionsTest, GoodAddressesAreTaken) {
  EXPECT_EQ(Parse({"--address", "unix:/socket", "--metrics_address", ""}), "");
  EXPECT_EQ(options_.address, "unix:/socket");
  EXPECT_EQ(
      Parse({"--address", "[::1]:0", "--metrics_address", "localhost:9090"}),
      "");
  EXPECT_EQ(options_.address, "[::1]:0");
}

TEST_F(OptionsTest, EmptyStateFolderIsRefused) {
  EXPECT_THAT(Parse({"--state_dir", ""}),
              AllOf(HasSubstr("--state_dir"), HasSubstr("empty")));
}

TEST_F(OptionsTest, FileSetsWhatFlagsSet) {
  EXPECT_EQ(ParseFile("token_file = /etc/tokens\n"
                      "state-dir = \"/var/lib/a b\"\n"
                      "insecure_bind = true\n"
                      "address = [::1]:50051\n"
                      "threads = 3\n"),
            "");
  EXPECT_EQ(options_.token_file, "/etc/tokens");
  EXPECT_EQ(options_.state_dir, "/var/lib/a b");
  EXPECT_TRUE(options_.insecure_bind);
  EXPECT_EQ(options_.address, "[::1]:50051");
  EXPECT_EQ(options_.threads, 3);
}

TEST_F(OptionsTest, FlagCountsBeforeTheFileAndTheFileBeforeTheEnvironment) {
  setenv("FINETUNED_THREADS", "2", 1);
  EXPECT_EQ(Parse({"--config", dir_.Write("settings", "threads = 3")}), "");
  EXPECT_EQ(options_.threads, 3);
  EXPECT_EQ(Parse({"--config", dir_.path() / "settings", "--threads", "4"}),
            "");
  EXPECT_EQ(options_.threads, 4);
  EXPECT_EQ(Parse({}), "");
  EXPECT_EQ(options_.threads, 2);
  unsetenv("FINETUNED_THREADS");
}

TEST_F(OptionsTest, FileThatIsNotUnderstoodIsNamed) {
  const std::string file = dir_.path() / "settings";
  EXPECT_THAT(ParseFile("tokn_file = /etc/tokens"),
              AllOf(HasSubstr(file), HasSubstr("line 1"),
                    HasSubstr("did you mean token_file?")));
  EXPECT_THAT(ParseFile("[server]\ntoken_file = /etc/tokens"),
              AllOf(HasSubstr(file), HasSubstr("[server]")));
  EXPECT_THAT(ParseFile("threads = many"), HasSubstr("threads"));
  EXPECT_THAT(Parse({"--config", dir_.path() / "absent"}), HasSubstr("absent"));
}

}  // namespace
}  // namespace finetune
