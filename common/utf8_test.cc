#include "common/utf8.h"

#include "gtest/gtest.h"

namespace finetune {
namespace {

TEST(Utf8Test, TellsWellFormedSequencesFromOthers) {
  for (const char* good : {"", "a", "h\xc3\xbctte", "\xe2\x82\xac",
                           "\xf0\x9f\x8c\xad", "\xed\x9f\xbf"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const char* bad :
       {"\xff", "\x80", "\xc3", "\xc0\xaf", "\xe2\x82", "\xe0\x80\xaf",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc3\x28", "a\xe2\x28\xa1"}) {
    EXPECT_FALSE(IsUtf8(bad)) << bad;
  }
}

TEST(Utf8Test, OtherBytesAreEscaped) {
  EXPECT_EQ(ToUtf8("h\xc3\xbctte"), "h\xc3\xbctte");
  EXPECT_EQ(ToUtf8("caf\xe9.jpg"), "caf\\xe9.jpg");
}

}  // namespace
}  // namespace finetune
