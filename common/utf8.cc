#include "common/utf8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace finetune {
namespace {

// Bytes that follow `lead`, and the range of the first of them. Zero bytes with
// an empty range: no sequence begins so.
struct Sequence {
  size_t following = 0;
  uint8_t low = 0x80, high = 0xbf;
};

Sequence SequenceOf(uint8_t lead) {
  if (lead < 0x80) return {0};
  if (lead >= 0xc2 && lead <= 0xdf) return {1};
  if (lead == 0xe0) return {2, 0xa0, 0xbf};
  if (lead == 0xed) return {2, 0x80, 0x9f};
  if (lead >= 0xe1 && lead <= 0xef) return {2};
  if (lead == 0xf0) return {3, 0x90, 0xbf};
  if (lead >= 0xf1 && lead <= 0xf3) return {3};
  if (lead == 0xf4) return {3, 0x80, 0x8f};
  return {0, 1, 0};
}

// The length of the well-formed sequence that `bytes` begin with; 0 if they
// begin with none. REQUIRES: !bytes.empty()
size_t SequenceLength(absl::string_view bytes) {
  const Sequence sequence = SequenceOf(static_cast<uint8_t>(bytes[0]));
  if (sequence.low > sequence.high || bytes.size() <= sequence.following) {
    return 0;
  }
  uint8_t low = sequence.low, high = sequence.high;
  for (size_t i = 1; i <= sequence.following; ++i) {
    const auto byte = static_cast<uint8_t>(bytes[i]);
    if (byte < low || byte > high) return 0;
    low = 0x80;
    high = 0xbf;
  }
  return 1 + sequence.following;
}

// Whether one character, well-formed, is of Unicode's category Cc.
bool IsControl(absl::string_view character) {
  const auto lead = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return lead < 0x20 || lead == 0x7f;
  return lead == 0xc2 && static_cast<uint8_t>(character[1]) < 0xa0;
}

std::string Escape(char c) {
  switch (c) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return absl::StrCat("\\x",
                          absl::Hex(static_cast<uint8_t>(c), absl::kZeroPad2));
  }
}

}  // namespace

bool IsUtf8(absl::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = SequenceLength(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string ToUtf8(absl::string_view bytes) {
  return IsUtf8(bytes) ? std::string(bytes) : absl::CHexEscape(bytes);
}

std::string ToPrintable(absl::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const size_t length = SequenceLength(bytes);
    const absl::string_view piece =
        bytes.substr(0, std::max<size_t>(length, 1));
    if (length > 0 && !IsControl(piece)) {
      text.append(piece.data(), piece.size());
    } else {
      for (const char c : piece) text += Escape(c);
    }
    bytes.remove_prefix(piece.size());
  }
  return text;
}

}  // namespace finetune
