#include "server/service/create_token_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <future>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "common/token_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::MatchesRegex;
using testing::NamesIn;
using testing::StatusIs;
using testing::TempDir;

class CreateTokenFileTest : public ::testing::Test {
 protected:
  const TempDir dir_;
  const std::filesystem::path path_ = dir_.path() / "tokens";
};

TEST_F(CreateTokenFileTest, NewFileHoldsOneAdminTokenForItsOwnerAlone) {
  const auto token = CreateTokenFile(path_);
  ASSERT_THAT(token, IsOk());
  EXPECT_THAT(*token, MatchesRegex("[0-9a-f]{64}"));
  const auto content = ReadFile(path_, 1000);
  ASSERT_THAT(content, IsOk());
  EXPECT_EQ(*content, "admin " + *token + "\n");
  const auto tokens = ParseTokenFile(*content);
  ASSERT_THAT(tokens, IsOk());
  EXPECT_EQ(tokens->at(0).role, Role::kAdmin);
  struct stat s;
  ASSERT_EQ(stat(path_.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("tokens"));
}

TEST_F(CreateTokenFileTest, TokensDiffer) {
  const auto one = CreateTokenFile(path_);
  const auto two = CreateTokenFile(dir_.path() / "more");
  ASSERT_THAT(one, IsOk());
  ASSERT_THAT(two, IsOk());
  EXPECT_NE(*one, *two);
}

TEST_F(CreateTokenFileTest, WhatIsThereStaysAsItIs) {
  for (const char* content : {"", "broken", "admin token-0123456789abcdef\n"}) {
    dir_.Write("tokens", content);
    const auto token = CreateTokenFile(path_);
    ASSERT_THAT(token, IsOk());
    EXPECT_EQ(*token, "");
    EXPECT_EQ(*ReadFile(path_, 1000), content);
  }
}

TEST_F(CreateTokenFileTest, LinkIsNotFollowed) {
  ASSERT_EQ(symlink((dir_.path() / "elsewhere").c_str(), path_.c_str()), 0);
  const auto token = CreateTokenFile(path_);
  ASSERT_THAT(token, IsOk());
  EXPECT_EQ(*token, "");
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("tokens"));
}

TEST_F(CreateTokenFileTest, OfManyAtOnceOneCreatesIt) {
  std::vector<std::future<absl::StatusOr<std::string>>> all;
  for (int i = 0; i < 16; ++i) {
    all.push_back(std::async(std::launch::async,
                             [this] { return CreateTokenFile(path_); }));
  }
  std::vector<std::string> created;
  for (auto& one : all) {
    const auto token = one.get();
    ASSERT_THAT(token, IsOk());
    if (!token->empty()) created.push_back("admin " + *token + "\n");
  }
  EXPECT_THAT(created, ElementsAre(*ReadFile(path_, 1000)));
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("tokens"));
}

TEST_F(CreateTokenFileTest, MissingPathOrFolderIsSaid) {
  const auto nowhere = CreateTokenFile("");
  EXPECT_THAT(nowhere, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(nowhere.status().message()),
              HasSubstr("needs --token_file"));
  const auto absent = CreateTokenFile(dir_.path() / "none" / "tokens");
  EXPECT_THAT(absent, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(std::string(absent.status().message()), HasSubstr("none/tokens"));
}

}  // namespace
}  // namespace finetune
