#include "common/utf8.h"

#include <cstddef>
#include <cstdint>

#include "absl/strings/escaping.h"

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

}  // namespace

bool IsUtf8(absl::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const Sequence sequence = SequenceOf(static_cast<uint8_t>(bytes[i]));
    if (sequence.low > sequence.high ||
        bytes.size() - i <= sequence.following) {
      return false;
    }
    uint8_t low = sequence.low, high = sequence.high;
    for (size_t k = 0; k < sequence.following; ++k) {
      const auto byte = static_cast<uint8_t>(bytes[++i]);
      if (byte < low || byte > high) return false;
      low = 0x80;
      high = 0xbf;
    }
  }
  return true;
}

std::string ToUtf8(absl::string_view bytes) {
  return IsUtf8(bytes) ? std::string(bytes) : absl::CHexEscape(bytes);
}

}  // namespace finetune
