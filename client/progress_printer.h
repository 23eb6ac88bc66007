// A job's progress as text: a bar that is redrawn on a terminal, plain lines in
// a pipe, and after each epoch one line that stays.

#ifndef CLIENT_PROGRESS_PRINTER_H_
#define CLIENT_PROGRESS_PRINTER_H_

#include <ostream>
#include <set>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "finetune/v1/job.pb.h"

namespace finetune {

// Not thread-safe.
class ProgressPrinter {
 public:
  // `terminal_width` in columns; 0 writes plain lines, at most one every ten
  // seconds besides those of the epochs.
  ProgressPrinter(int terminal_width, std::ostream& out)
      : width_(terminal_width), out_(out) {}

  // Prints what is new in `job`. Snapshots may skip some, never go back.
  void Print(const v1::FineTuneJob& job, absl::Time now = absl::Now());

  // Leaves a drawn bar behind, so that others can write below it.
  void Break();

 private:
  void PrintState(const v1::FineTuneJob& job);
  void PrintEvents(const v1::FineTuneJob& job);
  void PrintEnd(const v1::FineTuneJob& job);
  void Line(const std::string& text);  // Stays, above the bar.
  void Bar(const v1::Progress& progress);

  const int width_;
  std::ostream& out_;
  int epochs_printed_ = 0;
  std::string state_line_;   // The last one printed.
  v1::JobEvent last_event_;  // The same.
  std::set<std::string> warned_;
  bool bar_is_drawn_ = false;
  bool dataset_printed_ = false;
  absl::Time last_plain_ = absl::InfinitePast();
};

}  // namespace finetune

#endif  // CLIENT_PROGRESS_PRINTER_H_
