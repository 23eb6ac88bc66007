// Pictures after faults that people met, in server/testdata/cases: our own
// drawings.

#include <filesystem>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/sha256.h"
#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/data/decode.h"

namespace finetune {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::StatusIs;

struct Case {
  std::string name;
  std::string expected;
};

std::string Bytes(const std::string& name) {
  const auto path =
      std::filesystem::path(FINETUNE_TESTDATA) / "cases" / (name + ".jpg");
  const auto bytes = ReadFile(path, 1 << 20);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? *bytes : "";
}

std::string MessageOf(absl::string_view bytes) {
  const auto image = DecodeRgb(bytes, {});
  EXPECT_THAT(image, StatusIs(absl::StatusCode::kInvalidArgument));
  return std::string(image.status().message());
}

// The hashes are of the pixels of Pillow 13's convert("RGB").
class ReadableJpegTest : public ::testing::TestWithParam<Case> {};

TEST_P(ReadableJpegTest, PixelsArePillows) {
  const auto image = DecodeRgb(Bytes(GetParam().name), {});
  ASSERT_TRUE(image.ok()) << image.status();
  ASSERT_EQ(image->width, 96);
  ASSERT_EQ(image->height, 64);
  const absl::string_view pixels(
      reinterpret_cast<const char*>(image->pixels.get()), 3 * 96 * 64);
  EXPECT_THAT(Sha256Hex(pixels), ::testing::StartsWith(GetParam().expected));
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Whole, ReadableJpegTest,
    ::testing::Values(Case{"jpg_plain", "fa1cf4e539a7105f"},
                      Case{"jpg_extraneous_header", "fa1cf4e539a7105f"},
                      Case{"jpg_cmyk_420", "b836eb284a945c5c"},
                      Case{"jpg_sub_410", "a95e7d8947235596"},
                      Case{"jpg_sub_odd_1x1_2x2", "c009b170068319e0"},
                      Case{"jpg_sub_odd_2x2_2x1_1x1", "7b0fb548cfec0dca"}),
    NameOf);

INSTANTIATE_TEST_SUITE_P(
    Damaged, ReadableJpegTest,
    ::testing::Values(Case{"jpg_corrupt_middle", "4086bbc66d0610b7"},
                      Case{"jpg_trunc_then_eoi", "b8d61741118aa9c0"}),
    NameOf);

TEST(JpegCasesTest, FileThatEndsEarlyIsRefusedWhateverWarningCameFirst) {
  for (const char* name :
       {"jpg_trunc_half", "jpg_no_eoi", "jpg_extraneous_header_no_eoi",
        "jpg_extraneous_header_trunc", "jpg_jfif2_trunc"}) {
    EXPECT_THAT(MessageOf(Bytes(name)), HasSubstr("Premature end")) << name;
  }
}

TEST(JpegCasesTest, EveryPrefixAndEveryDamageIsReadOrRefused) {
  const std::string bytes = Bytes("jpg_sub_odd_2x2_2x1_1x1");
  for (size_t n = 0; n < bytes.size(); n += 5) {
    EXPECT_FALSE(DecodeRgb(bytes.substr(0, n), {}).ok()) << n;
    std::string damaged = bytes;
    damaged[n] = static_cast<char>(~damaged[n]);
    DecodeRgb(damaged, {.max_pixels = 1 << 20}).IgnoreError();
  }
}

TEST(JpegCasesTest, NothingIsPrinted) {
  ::testing::internal::CaptureStderr();
  for (const char* name : {"jpg_corrupt_middle", "jpg_trunc_half",
                           "jpg_extraneous_header", "jpg_jfif2_trunc"}) {
    DecodeRgb(Bytes(name), {}).IgnoreError();
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(ForeignFormatTest, FileIsRefusedWithWhatItLooksLike) {
  const std::vector<Case> cases = {{"heic_named_jpg", "a HEIC image"},
                                   {"avif_named_jpg", "an AVIF image"},
                                   {"lfs_pointer", "a Git LFS pointer"},
                                   {"html_named_jpg", "HTML"},
                                   {"send_base64", "base64 text"},
                                   {"send_data_uri", "a data: URI"},
                                   {"send_url", "a URL"}};
  for (const auto& [name, looks] : cases) {
    EXPECT_EQ(MessageOf(Bytes(name)),
              "not a JPEG, PNG, WebP or BMP image; it looks like " + looks);
  }
}

TEST(ForeignFormatTest, OtherBeginningsAreKnownToo) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"GIF89a....", "a GIF image"},
      {std::string("II*\0\x08\0\0\0", 8), "a TIFF image"},
      {std::string("MM\0*\0\0\0\x08", 8), "a TIFF image"},
      {std::string("\0\0\0\x18"
                   "ftypisom\0\0\2\0isomiso2",
                   24),
       "a video"},
      {"\xef\xbb\xbf\n <HTML lang=en>", "HTML"}};
  for (const auto& [bytes, looks] : cases) {
    EXPECT_THAT(MessageOf(bytes), EndsWith("looks like " + looks));
  }
}

TEST(ForeignFormatTest, NothingIsSaidOfWhatLooksLikeNothing) {
  for (const char* text :
       {"word", "This is text, whatever its name.", "II", "\1\2\3\4\5\6\7\b"}) {
    EXPECT_EQ(MessageOf(text), "not a JPEG, PNG, WebP or BMP image");
  }
}

}  // namespace
}  // namespace finetune
