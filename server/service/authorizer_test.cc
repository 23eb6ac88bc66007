#include "server/service/authorizer.h"

#include <memory>
#include <string>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "grpcpp/test/server_context_test_spouse.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Not;
using testing::StatusIs;
using testing::TempDir;

constexpr char kAdminToken[] = "admin-0123456789abcdef";
constexpr char kClassifyToken[] = "classify-0123456789abcdef";
constexpr char kTokens[] =
    "# Who may call.\n"
    "\n"
    "admin admin-0123456789abcdef\n"
    "  classify\tclassify-0123456789abcdef\r\n";

class AuthorizerTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Authorizer>> Open(const std::string& content) {
    return Authorizer::Open(dir_.Write("tokens", content),
                            [this] { return now_; });
  }

  // Check of a call with these values of `authorization`.
  static absl::Status CheckHeaders(const Authorizer& authorizer, Role needed,
                                   const std::vector<std::string>& values) {
    grpc::ServerContext context;
    grpc::testing::ServerContextTestSpouse spouse(&context);
    for (const std::string& value : values) {
      spouse.AddClientMetadata("authorization", value);
    }
    return authorizer.Check(context, needed);
  }
  static absl::Status Check(const Authorizer& authorizer, Role needed,
                            const std::string& token) {
    return CheckHeaders(authorizer, needed, {"Bearer " + token});
  }

  const TempDir dir_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(AuthorizerTest, WithoutATokenFileEverythingIsAllowed) {
  EXPECT_THAT(CheckHeaders(Authorizer(), Role::kAdmin, {}), IsOk());
  EXPECT_THAT(CheckHeaders(Authorizer(), Role::kAdmin, {"junk"}), IsOk());
}

TEST_F(AuthorizerTest, EachRoleMayDoItsOwnAndAdminEverything) {
  const auto authorizer = Open(kTokens);
  ASSERT_THAT(authorizer, IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, kAdminToken), IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kClassify, kAdminToken), IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kClassify, kClassifyToken), IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, kClassifyToken),
              StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(AuthorizerTest, MissingMalformedAndUnknownTokensAreUnauthenticated) {
  const auto authorizer = Open(kTokens);
  ASSERT_THAT(authorizer, IsOk());
  const std::string good = std::string("Bearer ") + kAdminToken;
  const std::vector<std::vector<std::string>> bad = {
      {},
      {""},
      {"Bearer"},
      {"Bearer "},
      {kAdminToken},
      {"Basic YWRtaW46c2VjcmV0LXNlY3JldA=="},
      {"Bearer  admin-0123456789abcdef"},
      {"Bearer admin-0123456789abcdef "},
      {"Bearer admin-0123456789abcde"},
      {"Bearer admin-0123456789abcdef0"},
      {"Bearer ADMIN-0123456789ABCDEF"},
      {"Bearer " + std::string(257, 'a')},
      {good, good},
  };
  for (const auto& values : bad) {
    const absl::Status status =
        CheckHeaders(**authorizer, Role::kClassify, values);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated))
        << ::testing::PrintToString(values);
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("0123456789")));
  }
}

TEST_F(AuthorizerTest, SchemeIsCaseInsensitive) {
  const auto authorizer = Open(kTokens);
  ASSERT_THAT(authorizer, IsOk());
  EXPECT_THAT(CheckHeaders(**authorizer, Role::kAdmin,
                           {std::string("bearer ") + kAdminToken}),
              IsOk());
}

TEST_F(AuthorizerTest, TokenThatComesTwiceHasTheHigherRole) {
  const auto authorizer = Open(
      "classify twice-0123456789abcdef\nadmin twice-0123456789abcdef\n"
      "classify twice-0123456789abcdef\n");
  ASSERT_THAT(authorizer, IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, "twice-0123456789abcdef"),
              IsOk());
}

TEST_F(AuthorizerTest, BrokenFileIsRefusedByItsNameAndLine) {
  const auto authorizer = Open("# one\nroot root-0123456789abcdef");
  EXPECT_THAT(authorizer, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(authorizer.status().message()),
              AllOf(HasSubstr("/tokens: line 2"), Not(HasSubstr("012345"))));
  EXPECT_THAT(Open("# nobody\n"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Open(std::string((1 << 20) + 1, '\n')),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Authorizer::Open(dir_.path() / "none"),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(AuthorizerTest, ChangedFileCountsFromTheNextLookOn) {
  const auto authorizer = Open(kTokens);
  ASSERT_THAT(authorizer, IsOk());
  const std::string fresh = "rotated-0123456789abcdef";
  dir_.Write("tokens", "admin " + fresh);
  now_ += absl::Milliseconds(999);
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, fresh),
              StatusIs(absl::StatusCode::kUnauthenticated));
  now_ += absl::Milliseconds(1);
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, fresh), IsOk());
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, kAdminToken),
              StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(AuthorizerTest, BrokenOrAbsentFileKeepsTheTokensUntilItIsGoodAgain) {
  const auto authorizer = Open(kTokens);
  ASSERT_THAT(authorizer, IsOk());
  dir_.Write("tokens", "not a token file");
  now_ += absl::Seconds(1);
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, kAdminToken), IsOk());
  std::filesystem::remove(dir_.path() / "tokens");
  now_ += absl::Seconds(1);
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, kAdminToken), IsOk());
  dir_.Write("tokens", "admin rotated-0123456789abcdef");
  now_ += absl::Seconds(1);
  EXPECT_THAT(Check(**authorizer, Role::kAdmin, "rotated-0123456789abcdef"),
              IsOk());
}

}  // namespace
}  // namespace finetune
