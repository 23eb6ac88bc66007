#include "client/transfer_printer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace finetune {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(200);
constexpr int kMinBarWidth = 8;
constexpr int kMaxBarWidth = 30;

}  // namespace

std::string ByteText(uint64_t bytes) {
  if (bytes < 1000) return absl::StrCat(bytes, " bytes");
  const auto value = static_cast<double>(bytes);
  if (bytes < 1'000'000) return absl::StrFormat("%.1f kB", value / 1e3);
  if (bytes < 1'000'000'000) return absl::StrFormat("%.1f MB", value / 1e6);
  return absl::StrFormat("%.1f GB", value / 1e9);
}

void TransferPrinter::Clear() {
  if (drawn_ != absl::InfinitePast()) out_ << "\r\033[K" << std::flush;
  drawn_ = absl::InfinitePast();
}

void TransferPrinter::Print(uint64_t done, absl::Time now) {
  if (begin_ == absl::InfinitePast()) begin_ = now;
  if (width_ == 0 || now - drawn_ < kInterval) return;
  drawn_ = now;
  const double seconds = absl::ToDoubleSeconds(now - begin_);
  std::string text =
      unit_ == Unit::kBytes
          ? absl::StrCat(ByteText(done), " of ", ByteText(total_))
          : absl::StrCat(done, " of ", total_, " images");
  if (done > 0 && seconds > 0) {
    const double speed = static_cast<double>(done) / seconds;
    const auto left = static_cast<int64_t>(
        std::ceil(static_cast<double>(total_ - done) / speed));
    const std::string rate = unit_ == Unit::kBytes
                                 ? absl::StrFormat("%.1f MB/s", speed / 1e6)
                                 : absl::StrFormat("%.1f images/s", speed);
    absl::StrAppendFormat(&text, "  %s  ETA %d:%02d", rate, left / 60,
                          left % 60);
  }
  const int room = width_ - 1 - static_cast<int>(text.size()) - 3;
  std::string line;
  if (room >= kMinBarWidth) {
    const int width = std::min(room, kMaxBarWidth);
    const int filled =
        total_ == 0 ? width
                    : static_cast<int>(static_cast<double>(width) * done /
                                       static_cast<double>(total_));
    line = absl::StrCat("[", std::string(filled, '#'),
                        std::string(width - filled, '.'), "] ");
  }
  line += text;
  out_ << "\r\033[K" << line.substr(0, width_ - 1) << std::flush;
}

}  // namespace finetune
