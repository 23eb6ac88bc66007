#include "client/progress_printer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/job_text.h"
#include "common/utf8.h"

namespace finetune {
namespace {

constexpr absl::Duration kPlainInterval = absl::Seconds(10);
constexpr int kMinBarWidth = 8;
constexpr int kMaxBarWidth = 30;

// What stands beside a bar, in at most `room` columns: the least needed goes
// first where they are few.
std::string BarText(const v1::Progress& p, int room) {
  const std::string epoch =
      absl::StrFormat("epoch %d/%d", p.epoch(), p.total_epochs());
  const std::string eta = absl::StrCat("ETA ", Clock(p.eta()));
  const std::string quality = absl::StrFormat(
      "  loss %.3f  acc %.3f", p.train_loss(), p.train_accuracy());
  const std::string speed =
      absl::StrFormat("  %.1f images/s", p.images_per_second());
  for (const std::string& text :
       {absl::StrCat(epoch, quality, speed, "  ", eta),
        absl::StrCat(epoch, quality, "  ", eta), absl::StrCat(epoch, "  ", eta),
        eta}) {
    if (static_cast<int>(text.size()) <= room) return text;
  }
  return "";
}

// What stands alone as a line when the job gets into the state.
std::string StateLine(const v1::FineTuneJob& job) {
  switch (job.state()) {
    case v1::JOB_STATE_QUEUED:
      return StateText(job);
    case v1::JOB_STATE_VALIDATING:
      return "validating the data set";
    case v1::JOB_STATE_CANCELLING:
      return "cancelling: the trainer writes a checkpoint";
    default:
      return "";
  }
}

bool IsSame(const v1::JobEvent& a, const v1::JobEvent& b) {
  return a.time().seconds() == b.time().seconds() &&
         a.time().nanos() == b.time().nanos() && a.message() == b.message();
}

}  // namespace

void ProgressPrinter::Print(const v1::FineTuneJob& job, absl::Time now) {
  PrintState(job);
  PrintEvents(job);
  const v1::Progress& progress = job.progress();
  for (; epochs_printed_ < progress.epochs_size(); ++epochs_printed_) {
    Line(EpochLine(progress.epochs(epochs_printed_)));
    last_plain_ = now;
  }
  for (const std::string& warning : progress.warnings()) {
    if (warned_.insert(warning).second) {
      Line(absl::StrCat("warning: ", ToPrintable(warning)));
    }
  }
  if (job.state() == v1::JOB_STATE_RUNNING && progress.step() > 0) {
    if (width_ > 0) {
      Bar(progress);
    } else if (now - last_plain_ >= kPlainInterval) {
      Line(ProgressText(progress));
      last_plain_ = now;
    }
  }
  PrintEnd(job);
  out_.flush();
}

void ProgressPrinter::PrintState(const v1::FineTuneJob& job) {
  const std::string line = StateLine(job);
  if (!line.empty() && line != state_line_) Line(line);
  state_line_ = line;
  if (dataset_printed_ || !job.has_dataset_stats()) return;
  dataset_printed_ = true;
  const std::string skipped = SkippedText(job.dataset_stats());
  if (!skipped.empty()) Line(skipped.substr(0, skipped.size() - 1));
  Line(DatasetText(job.dataset_stats()));
  Line(SettingsText(job.hyper_parameters()));
}

void ProgressPrinter::PrintEvents(const v1::FineTuneJob& job) {
  int next = job.events_size();  // The first that was not printed yet.
  while (next > 0 && !IsSame(job.events(next - 1), last_event_)) --next;
  for (; next < job.events_size(); ++next) {
    last_event_ = job.events(next);
    Line(EventLine(last_event_));
  }
}

void ProgressPrinter::PrintEnd(const v1::FineTuneJob& job) {
  if (job.state() == v1::JOB_STATE_FAILED) {
    Line(absl::StrCat("failed: ", ToPrintable(job.error().message())));
  }
  if (job.state() == v1::JOB_STATE_CANCELLED) {
    Line(absl::StrCat("cancelled; to go on: finetune resume ",
                      ToPrintable(job.job_id())));
  }
  if (job.state() != v1::JOB_STATE_SUCCEEDED) return;
  std::string line = absl::StrCat("model ", ModelName(job.model()));
  if (const v1::EpochMetrics* const best = BestEpoch(job.progress())) {
    absl::StrAppendFormat(&line, ", test accuracy %.3f, best epoch %d",
                          best->test_accuracy(), best->epoch());
  }
  if (job.hold_promotion()) absl::StrAppend(&line, ", not promoted");
  absl::StrAppend(&line, "; try: finetune classify --model ",
                  job.hold_promotion() ? ModelName(job.model())
                                       : ToPrintable(job.model().name()),
                  " IMAGE");
  Line(line);
}

void ProgressPrinter::Line(const std::string& text) {
  if (bar_is_drawn_) out_ << "\r\033[K";
  bar_is_drawn_ = false;
  out_ << text << "\n";
}

void ProgressPrinter::Bar(const v1::Progress& progress) {
  const int columns = width_ - 1;  // A full row would wrap.
  const std::string text = BarText(progress, columns - kMinBarWidth - 3);
  const int around = text.empty() ? 2 : static_cast<int>(text.size()) + 3;
  const int width = std::clamp(columns - around, 0, kMaxBarWidth);
  const int filled =
      static_cast<int>(width * std::clamp(progress.fraction_done(), 0.0, 1.0));
  std::string line = absl::StrCat("[", std::string(filled, '#'),
                                  std::string(width - filled, '.'), "]");
  if (!text.empty()) absl::StrAppend(&line, " ", text);
  out_ << "\r\033[K" << line;  // To column 1; clear the line.
  bar_is_drawn_ = true;
}

void ProgressPrinter::Break() {
  if (bar_is_drawn_) out_ << std::endl;
  bar_is_drawn_ = false;
}

}  // namespace finetune
