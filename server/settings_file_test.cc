#include "server/settings_file.h"

#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class SettingsFileTest : public ::testing::Test {
 protected:
  SettingsFileTest() {
    app_.set_config("--config");
    app_.add_option("--token_file", text_)->envname("FINETUNED_TOKEN_FILE");
    app_.add_option("--state_dir", text_)->envname("FINETUNED_STATE_DIR");
    app_.add_option("--threads", text_)->envname("FINETUNED_THREADS");
  }

  // "name=value" of each setting in the file.
  std::vector<std::string> Read(const std::string& content) const {
    std::istringstream input(content);
    std::vector<std::string> settings;
    for (const CLI::ConfigItem& item : SettingsFile(app_).from_config(input)) {
      EXPECT_THAT(item.parents, IsEmpty());
      EXPECT_EQ(item.inputs.size(), 1u);
      settings.push_back(absl::StrCat(item.name, "=", item.inputs.at(0)));
    }
    return settings;
  }

  // What is wrong with the file; empty: nothing.
  std::string Error(const std::string& content) const {
    try {
      Read(content);
    } catch (const CLI::ConfigError& error) {
      return error.what();
    }
    return "";
  }

  CLI::App app_;
  std::string text_;
};

TEST_F(SettingsFileTest, ReadsNamesAndValuesLineByLine) {
  EXPECT_THAT(Read("# The server's.\n"
                   "; And ours.\n"
                   "\n"
                   "token_file = /etc/tokens  # Who may call.\r\n"
                   "  state-dir=\"/var/lib/a # b\" # c\n"
                   "threads = '4'"),
              ElementsAre("token_file=/etc/tokens", "state_dir=/var/lib/a # b",
                          "threads=4"));
  EXPECT_THAT(Read(""), IsEmpty());
  EXPECT_THAT(Read("token_file ="), ElementsAre("token_file="));
  EXPECT_THAT(Read("token_file = [::1]:80"),
              ElementsAre("token_file=[::1]:80"));
  EXPECT_THAT(Read("token_file = /with a space,a comma=and more"),
              ElementsAre("token_file=/with a space,a comma=and more"));
}

TEST_F(SettingsFileTest, MisspeltNameIsRefusedWithTheNearestOne) {
  EXPECT_THAT(Error("threads = 4\ntokn_file = /etc/tokens"),
              AllOf(HasSubstr("line 2: "), HasSubstr(" tokn_file; "),
                    HasSubstr("did you mean token_file?")));
  EXPECT_THAT(Error("--token-file = /etc/tokens"),
              HasSubstr("did you mean token_file?"));
  EXPECT_THAT(Error("Threads = 4"), HasSubstr("did you mean threads?"));
  EXPECT_THAT(Error("config = other"), HasSubstr("no setting config"));
  EXPECT_THAT(Error("help = true"), HasSubstr("no setting help"));
  EXPECT_THAT(Error("zzzzzz = 4"),
              AllOf(HasSubstr("no setting zzzzzz"), Not(HasSubstr("mean"))));
}

TEST_F(SettingsFileTest, SectionsYamlAndJsonAreRefusedWithTheRightForm) {
  for (const char* line :
       {"[server]", "[[server]]", "token_file: /etc/tokens",
        "token_file: \"a=b\"", "---", "{", "{\"token_file\": \"/etc/tokens\"}",
        "token_file", "token_file /etc/tokens", "= 4", "token file = a",
        "token_file = \"open", "token_file = 'a' b"}) {
    EXPECT_THAT(Error(absl::StrCat("# Settings\n", line, "\n")),
                AllOf(HasSubstr("line 2: "), HasSubstr("`name = value`"),
                      Not(HasSubstr("\n"))))
        << line;
  }
  EXPECT_THAT(Error("[server]"), HasSubstr("\"[server]\""));
}

TEST_F(SettingsFileTest, SecretsInAWrongFileAreNotRepeated) {
  EXPECT_THAT(Error("admin 0123456789abcdef"),
              AllOf(HasSubstr("\"admin\""), Not(HasSubstr("0123"))));
}

TEST_F(SettingsFileTest, NameThatComesTwiceIsRefused) {
  EXPECT_THAT(Error("token_file = a\ntoken-file = b"),
              AllOf(HasSubstr("line 2"), HasSubstr("token_file"),
                    HasSubstr("second time")));
}

TEST_F(SettingsFileTest, UnknownVariablesAreToldWithTheNearestName) {
  const char* const environment[] = {"PATH=/bin",
                                     "FINETUNED_TOKEN_FILE=/etc/tokens",
                                     "FINETUNED_TOKN_FILE=a-secret",
                                     "FINETUNED_QQQQQQQQQQQQQQQQQQQQ=1",
                                     "FINETUNE_SERVER=x",
                                     nullptr};
  EXPECT_THAT(UnknownVariables(app_, environment),
              ElementsAre(AllOf(HasSubstr("FINETUNED_TOKN_FILE"),
                                HasSubstr("did you mean FINETUNED_TOKEN_FILE?"),
                                Not(HasSubstr("a-secret"))),
                          AllOf(HasSubstr("FINETUNED_QQQQQQQQQQQQQQQQQQQQ"),
                                Not(HasSubstr("mean")))));
}

}  // namespace
}  // namespace finetune
