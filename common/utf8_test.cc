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

TEST(Utf8Test, PrintableTextHasNoControlCharacters) {
  EXPECT_EQ(ToPrintable("a\x1b[2J\nb\r\tc\x7f"), "a\\x1b[2J\\nb\\r\\tc\\x7f");
  EXPECT_EQ(ToPrintable(absl::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(ToPrintable("\xc2\x80\xc2\x9b\xc2\x9f"),
            "\\xc2\\x80\\xc2\\x9b\\xc2\\x9f");
}

TEST(Utf8Test, PrintableTextIsUtf8) {
  EXPECT_EQ(ToPrintable("caf\xe9 h\xc3\xbctte"), "caf\\xe9 h\xc3\xbctte");
  EXPECT_EQ(ToPrintable("cut \xe2\x82"), "cut \\xe2\\x82");
}

TEST(Utf8Test, OtherTextIsPrintableAsItIs) {
  for (const char* same :
       {"", "a b~", "\xc2\xa0", "\xe2\x82\xac", "a\\b", "\xf0\x9f\x8c\xad"}) {
    EXPECT_EQ(ToPrintable(same), same);
  }
}

}  // namespace
}  // namespace finetune
