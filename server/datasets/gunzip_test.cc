#include "server/datasets/gunzip.h"

#include <string>

#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "zlib.h"

namespace finetune {
namespace {

using testing::IsOk;
using testing::StatusIs;

std::string Gzip(const std::string& bytes) {
  z_stream stream = {};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// All that comes out when `bytes` come in pieces of `piece`.
absl::StatusOr<std::string> Gunzipped(const std::string& bytes, size_t piece,
                                      uint64_t max_ratio = 1000) {
  size_t at = 0;
  Gunzip gunzip(
      [&]() -> absl::StatusOr<absl::string_view> {
        const absl::string_view next =
            absl::string_view(bytes).substr(at, piece);
        at += next.size();
        return next;
      },
      max_ratio, /*slack=*/100);
  std::string all;
  for (;;) {
    const auto out = gunzip.Read();
    if (!out.ok()) return out.status();
    if (out->empty()) return all;
    all.append(out->data(), out->size());
  }
}

TEST(GunzipTest, WhatIsNotGzipComesOutAsItIs) {
  for (const std::string text : {"", "x", "\x1f", "\x1fz", "plain text"}) {
    for (const size_t piece : {1u, 3u, 100u})
      EXPECT_EQ(*Gunzipped(text, piece), text);
  }
}

TEST(GunzipTest, MembersAreJoinedAndPaddingIsIgnored) {
  const std::string large(1'000'000, 'x');
  const std::string bytes =
      Gzip("one ") + Gzip("") + Gzip(large) + std::string(100, '\0');
  for (const size_t piece : {1u, 7u, 1u << 20}) {
    EXPECT_EQ(*Gunzipped(bytes, piece), "one " + large);
  }
}

TEST(GunzipTest, OneLayerIsUndone) {
  EXPECT_EQ(*Gunzipped(Gzip(Gzip("twice")), 100), Gzip("twice"));
}

TEST(GunzipTest, DamagedOrShortStreamIsInvalid) {
  const std::string good = Gzip("some text to compress");
  for (size_t size = 2; size < good.size(); ++size) {
    EXPECT_THAT(Gunzipped(good.substr(0, size), 5),
                StatusIs(absl::StatusCode::kInvalidArgument));
  }
  std::string bad = good;
  bad.back() ^= 1;  // The length.
  EXPECT_THAT(Gunzipped(bad, 100),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(GunzipTest, RatioIsKept) {
  const std::string bytes = Gzip(std::string(1'000'000, 'x'));
  EXPECT_THAT(Gunzipped(bytes, 100, 1100), IsOk());
  EXPECT_THAT(Gunzipped(bytes, 100, 100),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(GunzipTest, EndlessHeaderTakesNoMemory) {
  std::string header("\x1f\x8b\x08\x08\0\0\0\0\0\x03", 10);  // A name follows.
  EXPECT_THAT(Gunzipped(header + std::string(5'000'000, 'n'), 4096),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace finetune
