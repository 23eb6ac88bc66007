// How far a transfer is, as text.

#ifndef CLIENT_TRANSFER_PRINTER_H_
#define CLIENT_TRANSFER_PRINTER_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace finetune {

// "512 bytes", "1.5 MB"; powers of ten.
std::string ByteText(uint64_t bytes);

enum class Unit { kBytes, kImages };

// A bar that is redrawn on a terminal; silent elsewhere. Not thread-safe.
class TransferPrinter {
 public:
  // `terminal_width` in columns; 0: not a terminal.
  TransferPrinter(uint64_t total, int terminal_width, std::ostream& out,
                  Unit unit = Unit::kBytes)
      : total_(total), width_(terminal_width), out_(out), unit_(unit) {}

  ~TransferPrinter() { Clear(); }

  TransferPrinter(const TransferPrinter&) = delete;
  TransferPrinter& operator=(const TransferPrinter&) = delete;

  // `done` of all, for the first time 0. Draws a few times a second.
  void Print(uint64_t done, absl::Time now = absl::Now());

  // Takes the bar away, so that others can write there. The next Print draws.
  void Clear();

 private:
  const uint64_t total_;
  const int width_;
  std::ostream& out_;
  const Unit unit_;
  absl::Time begin_ = absl::InfinitePast();
  absl::Time drawn_ = absl::InfinitePast();
};

}  // namespace finetune

#endif  // CLIENT_TRANSFER_PRINTER_H_
