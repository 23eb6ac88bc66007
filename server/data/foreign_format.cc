#include "server/data/foreign_format.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace finetune {
namespace {

constexpr size_t kMaxLook = 512;
constexpr size_t kMinBase64 = 64;  // Shorter may be any word.

struct Beginning {
  absl::string_view bytes;
  absl::string_view what;
};

absl::string_view Find(absl::string_view bytes,
                       std::initializer_list<Beginning> beginnings) {
  for (const Beginning& beginning : beginnings) {
    if (absl::StartsWithIgnoreCase(bytes, beginning.bytes)) {
      return beginning.what;
    }
  }
  return "";
}

absl::string_view BinaryFormat(absl::string_view bytes) {
  using absl::string_view;
  return Find(bytes, {{"GIF8", "a GIF image"},
                      {string_view("II*\0", 4), "a TIFF image"},
                      {string_view("MM\0*", 4), "a TIFF image"},
                      {string_view("II+\0", 4), "a TIFF image"},
                      {string_view("MM\0+", 4), "a TIFF image"},
                      {"\xff\x0a", "a JPEG XL image"},
                      {string_view("\0\0\0\x0cJXL ", 8), "a JPEG XL image"},
                      {string_view("\0\0\0\x0cjP  ", 8), "a JPEG 2000 image"},
                      {"8BPS", "a Photoshop file"},
                      {"%PDF-", "a PDF document"},
                      {"PK\x03\x04", "a zip archive"}});
}

// ISO/IEC 14496-12: a box "ftyp" with the brand, its version and the brands
// that it is compatible with.
absl::string_view IsoMedia(absl::string_view bytes) {
  if (bytes.size() < 12 || bytes.substr(4, 4) != "ftyp") return "";
  const size_t box =
      std::min<size_t>(bytes.size(), static_cast<uint8_t>(bytes[3]));
  bool heic = false;
  for (size_t at = 8; at + 4 <= box; at += 4) {
    const absl::string_view brand = bytes.substr(at, 4);
    if (brand == "avif" || brand == "avis") return "an AVIF image";
    heic |= absl::StartsWith(brand, "hei") || absl::StartsWith(brand, "hev") ||
            brand == "mif1" || brand == "msf1";
  }
  return heic ? "a HEIC image" : "a video";
}

bool IsBase64(absl::string_view bytes) {
  return bytes.size() >= kMinBase64 &&
         std::all_of(bytes.begin(), bytes.end(), [](char c) {
           return absl::ascii_isalnum(c) || absl::ascii_isspace(c) ||
                  absl::StrContains("+/-_=", c);
         });
}

absl::string_view TextFormat(absl::string_view text) {
  if (absl::StartsWith(text, "\xef\xbb\xbf")) text.remove_prefix(3);
  text = absl::StripLeadingAsciiWhitespace(text);
  const absl::string_view found =
      Find(text, {{"version https://git-lfs", "a Git LFS pointer"},
                  {"<!doctype html", "HTML"},
                  {"<html", "HTML"},
                  {"<head", "HTML"},
                  {"<body", "HTML"},
                  {"<svg", "an SVG image"},
                  {"<?xml", "XML"},
                  {"data:", "a data: URI"},
                  {"http://", "a URL"},
                  {"https://", "a URL"},
                  {"ftp://", "a URL"},
                  {"file://", "a URL"},
                  {"s3://", "a URL"},
                  {"gs://", "a URL"}});
  if (!found.empty()) return found;
  return IsBase64(text) ? "base64 text" : "";
}

}  // namespace

absl::string_view LooksLike(absl::string_view bytes) {
  bytes = bytes.substr(0, kMaxLook);
  for (const auto looks : {BinaryFormat, IsoMedia, TextFormat}) {
    const absl::string_view what = looks(bytes);
    if (!what.empty()) return what;
  }
  return "";
}

}  // namespace finetune
