#include "common/flag_names.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;

// `arguments` as `app` spells them.
std::vector<std::string> Spelled(const CLI::App& app,
                                 std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  SpellFlagsAs(app, static_cast<int>(argv.size()), argv.data());
  return arguments;
}

class FlagNamesTest : public ::testing::Test {
 protected:
  FlagNamesTest() {
    app_.add_option("--state_dir", value_);
    app_.add_option("--top-k", value_);
    app_.add_flag("--poisson-like,!--evenly-apart", flag_);
  }

  CLI::App app_;
  std::string value_;
  bool flag_ = false;
};

TEST_F(FlagNamesTest, DashesAndUnderscoresAreOneInNamesOfFlags) {
  EXPECT_THAT(Spelled(app_, {"program", "--state-dir", "a-b", "--top_k=5_000-1",
                             "--state_dir", "--evenly_apart"}),
              ElementsAre("program", "--state_dir", "a-b", "--top-k=5_000-1",
                          "--state_dir", "--evenly-apart"));
}

TEST_F(FlagNamesTest, WhatIsNoFlagIsLeftAlone) {
  EXPECT_THAT(
      Spelled(app_, {"--state-dir", "state-dir", "-state-dir", "--other-name",
                     "--state-dirs", "--=", "", "--", "--state-dir"}),
      ElementsAre("--state-dir", "state-dir", "-state-dir", "--other-name",
                  "--state-dirs", "--=", "", "--", "--state-dir"));
}

TEST_F(FlagNamesTest, ParserTakesEitherSpelling) {
  std::string arguments[] = {"program", "--state-dir", "/tmp"};
  char* argv[] = {arguments[0].data(), arguments[1].data(),
                  arguments[2].data()};
  SpellFlagsAs(app_, 3, argv);
  app_.parse(3, argv);
  EXPECT_EQ(value_, "/tmp");
}

}  // namespace
}  // namespace finetune
