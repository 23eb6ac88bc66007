#include "client/progress_printer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/time_util.h"

namespace finetune {
namespace {

constexpr absl::Duration kPlainInterval = absl::Seconds(10);
constexpr int kSkippedShown = 5;
constexpr int kMinBarWidth = 8;
constexpr int kMaxBarWidth = 30;

double Seconds(const google::protobuf::Duration& duration) {
  return 1e-9 *
         static_cast<double>(
             google::protobuf::util::TimeUtil::DurationToNanoseconds(duration));
}

// "1:05:09", "5:09".
std::string Clock(const google::protobuf::Duration& duration) {
  const int64_t s = duration.seconds() + (duration.nanos() > 0 ? 1 : 0);
  return s >= 3600
             ? absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60)
             : absl::StrFormat("%d:%02d", s / 60, s % 60);
}

std::string StateName(v1::JobState state) {
  constexpr size_t kPrefix = sizeof("JOB_STATE_") - 1;
  const std::string& name = v1::JobState_Name(state);
  return name.size() > kPrefix ? name.substr(kPrefix) : "UNKNOWN";
}

std::string ModelName(const v1::ModelRef& model) {
  return absl::StrCat(model.name(), "@", model.version());
}

// What a plain line says of a running epoch.
std::string ProgressText(const v1::Progress& p) {
  return absl::StrFormat(
      "epoch %d/%d  step %d/%d  loss %.3f  acc %.3f  %.1f images/s  ETA %s",
      p.epoch(), p.total_epochs(), p.step(), p.total_steps(), p.train_loss(),
      p.train_accuracy(), p.images_per_second(), Clock(p.eta()));
}

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

std::string DatasetText(const v1::DatasetStats& stats) {
  return absl::StrCat(stats.train_images(), " training and ",
                      stats.test_images(), " test images of ",
                      stats.classes_size(), " classes");
}

std::string SkippedText(const v1::DatasetStats& stats) {
  std::string text;
  const int shown = std::min(kSkippedShown, stats.skipped_size());
  for (int i = 0; i < shown; ++i) {
    absl::StrAppend(&text, "skipped ", stats.skipped(i).path(), ": ",
                    stats.skipped(i).reason(), "\n");
  }
  if (stats.skipped_images() > shown) {
    absl::StrAppend(&text, "skipped ", stats.skipped_images() - shown,
                    " more files\n");
  }
  return text;
}

std::string SettingsText(const v1::HyperParameters& p) {
  return absl::StrFormat(
      "%d epochs, batch size %d, lr %g (fc %g), weight decay %g, momentum %g, "
      "seed %u%s",
      p.epochs(), p.batch_size(), p.learning_rate(), p.head_learning_rate(),
      p.weight_decay(), p.momentum(), p.seed(),
      p.from_scratch() ? ", from scratch" : "");
}

std::string StateText(const v1::FineTuneJob& job) {
  switch (job.state()) {
    case v1::JOB_STATE_QUEUED:
      return absl::StrCat("queued, position ", job.queue_position());
    case v1::JOB_STATE_VALIDATING:
      return "validating the data set";
    default:
      return "";
  }
}

}  // namespace

std::string EpochLine(const v1::EpochMetrics& epoch) {
  return absl::StrFormat(
      "epoch %d, loss %.3f, train acc %.3f, test acc %.3f, time %.1f sec",
      epoch.epoch(), epoch.train_loss(), epoch.train_accuracy(),
      epoch.test_accuracy(), Seconds(epoch.duration()));
}

void PrintJob(const v1::FineTuneJob& job, std::ostream& out) {
  out << "job       " << job.job_id() << "\n"
      << "state     " << StateName(job.state());
  if (job.queue_position() > 0) out << ", position " << job.queue_position();
  out << "\ndata set  " << job.dataset();
  if (job.has_dataset_stats()) {
    out << ": " << DatasetText(job.dataset_stats());
  }
  out << "\nsettings  " << SettingsText(job.hyper_parameters()) << "\n"
      << SkippedText(job.dataset_stats());
  for (const v1::EpochMetrics& epoch : job.progress().epochs()) {
    out << EpochLine(epoch) << "\n";
  }
  if (job.state() == v1::JOB_STATE_RUNNING) {
    out << ProgressText(job.progress()) << "\n";
  }
  if (job.has_model()) out << "model     " << ModelName(job.model()) << "\n";
  if (job.has_error()) out << "error     " << job.error().message() << "\n";
}

void ProgressPrinter::Print(const v1::FineTuneJob& job, absl::Time now) {
  PrintState(job);
  const v1::Progress& progress = job.progress();
  for (; epochs_printed_ < progress.epochs_size(); ++epochs_printed_) {
    Line(EpochLine(progress.epochs(epochs_printed_)));
    last_plain_ = now;
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
  const std::string line = StateText(job);
  if (!line.empty() && line != state_line_) Line(line);
  state_line_ = line;
  if (dataset_printed_ || !job.has_dataset_stats()) return;
  dataset_printed_ = true;
  const std::string skipped = SkippedText(job.dataset_stats());
  if (!skipped.empty()) Line(skipped.substr(0, skipped.size() - 1));
  Line(DatasetText(job.dataset_stats()));
  Line(SettingsText(job.hyper_parameters()));
}

void ProgressPrinter::PrintEnd(const v1::FineTuneJob& job) {
  if (job.state() == v1::JOB_STATE_FAILED) {
    Line(absl::StrCat("failed: ", job.error().message()));
  }
  if (job.state() != v1::JOB_STATE_SUCCEEDED) return;
  const int best = job.progress().best_epoch();
  std::string line = absl::StrCat("model ", ModelName(job.model()));
  if (best >= 1 && best <= job.progress().epochs_size()) {
    absl::StrAppendFormat(&line, ", test accuracy %.3f, best epoch %d",
                          job.progress().epochs(best - 1).test_accuracy(),
                          best);
  }
  absl::StrAppend(&line, "; try: finetune classify --model ",
                  job.model().name(), " IMAGE");
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
