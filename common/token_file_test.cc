#include "common/token_file.h"

#include <string>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Not;
using testing::StatusIs;

auto Is(Role role, const std::string& token) {
  return AllOf(Field(&RoleToken::role, role), Field(&RoleToken::token, token));
}

TEST(TokenFileTest, TokensComeInTheOrderOfTheLines) {
  const auto tokens = ParseTokenFile(
      "# Who may call.\n"
      "\n"
      "admin admin-0123456789abcdef\n"
      "  classify\tclassify-0123456789abcdef\r\n");
  ASSERT_THAT(tokens, IsOk());
  EXPECT_THAT(*tokens,
              ElementsAre(Is(Role::kAdmin, "admin-0123456789abcdef"),
                          Is(Role::kClassify, "classify-0123456789abcdef")));
}

TEST(TokenFileTest, BrokenLineIsNamedWithoutRepeatingIt) {
  for (const char* bad :
       {"admin", "root root-0123456789abcdef", "admin short",
        "admin admin-0123456789abcdef more", "admin\xc3\xa4-0123456789abcdef",
        "Admin admin-0123456789abcdef", "bare-0123456789abcdef"}) {
    const auto tokens = ParseTokenFile(std::string("# one\n") + bad);
    EXPECT_THAT(tokens, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(std::string(tokens.status().message()),
                AllOf(HasSubstr("line 2"), Not(HasSubstr("0123456789"))));
  }
}

TEST(TokenFileTest, FileWithoutATokenIsRefused) {
  EXPECT_THAT(ParseTokenFile(""), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ParseTokenFile("# nobody\n"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace finetune
