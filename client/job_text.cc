#include "client/job_text.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/utf8.h"
#include "google/protobuf/util/time_util.h"

namespace finetune {
namespace {

constexpr int kFilesShown = 5;
constexpr int kClassesShown = 20;

double Seconds(const google::protobuf::Duration& duration) {
  return 1e-9 *
         static_cast<double>(
             google::protobuf::util::TimeUtil::DurationToNanoseconds(duration));
}

// The longest of the names, at least as long as `heading`.
int Width(const google::protobuf::RepeatedPtrField<v1::ClassCount>& classes,
          size_t heading) {
  for (const v1::ClassCount& one : classes) {
    heading = std::max(heading, ToPrintable(one.label()).size());
  }
  return static_cast<int>(heading);
}

std::string DuplicatesText(const v1::DatasetStats& stats) {
  std::string text;
  const int shown = std::min(kFilesShown, stats.duplicates_size());
  for (int i = 0; i < shown; ++i) {
    absl::StrAppend(&text, ToPrintable(stats.duplicates(i).test_path()),
                    " equals ", ToPrintable(stats.duplicates(i).train_path()),
                    "\n");
  }
  if (stats.duplicate_images() > shown) {
    absl::StrAppend(&text, stats.duplicate_images() - shown,
                    " more test images are in train/ too\n");
  }
  return text;
}

// Precision and recall by class; of many classes, those found least.
void PrintClasses(const v1::EpochMetrics& epoch, const v1::DatasetStats& stats,
                  std::ostream& out) {
  const int count = epoch.classes_size();
  if (count == 0 || count != stats.classes_size()) return;
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (count > kClassesShown) {
    std::stable_sort(order.begin(), order.end(), [&epoch](int a, int b) {
      return epoch.classes(a).recall() < epoch.classes(b).recall();
    });
    order.resize(kClassesShown);
  }
  const int width = Width(stats.classes(), 5);
  out << absl::StrFormat("%-*s  precision  recall  test images (epoch %d)\n",
                         width, "class", epoch.epoch());
  for (const int i : order) {
    out << absl::StrFormat(
        "%-*s  %9.3f  %6.3f  %11d\n", width,
        ToPrintable(stats.classes(i).label()), epoch.classes(i).precision(),
        epoch.classes(i).recall(), stats.classes(i).test_images());
  }
  if (count > kClassesShown) {
    out << count - kClassesShown << " more classes with a higher recall\n";
  }
}

std::string DoneText(const v1::FineTuneJob& job) {
  if (!job.has_progress()) return "-";
  return absl::StrFormat("%.0f%%", 100 * job.progress().fraction_done());
}

}  // namespace

std::string StateText(const v1::FineTuneJob& job) {
  constexpr size_t kPrefix = sizeof("JOB_STATE_") - 1;
  const std::string& name = v1::JobState_Name(job.state());
  std::string text = name.size() > kPrefix
                         ? absl::AsciiStrToLower(name.substr(kPrefix))
                         : "unknown";
  if (job.queue_position() > 0) {
    absl::StrAppend(&text, ", position ", job.queue_position());
  }
  return text;
}

std::string ModelName(const v1::ModelRef& model) {
  return absl::StrCat(ToPrintable(model.name()), "@", model.version());
}

std::string EpochLine(const v1::EpochMetrics& epoch) {
  return absl::StrFormat(
      "epoch %d, loss %.3f, train acc %.3f, test acc %.3f, time %.1f sec",
      epoch.epoch(), epoch.train_loss(), epoch.train_accuracy(),
      epoch.test_accuracy(), Seconds(epoch.duration()));
}

std::string LocalTime(const char* format,
                      const google::protobuf::Timestamp& time) {
  return absl::FormatTime(format, absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

std::string Clock(const google::protobuf::Duration& duration) {
  const int64_t s = duration.seconds() + (duration.nanos() > 0 ? 1 : 0);
  return s >= 3600
             ? absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60)
             : absl::StrFormat("%d:%02d", s / 60, s % 60);
}

std::string ProgressText(const v1::Progress& p) {
  return absl::StrFormat(
      "epoch %d/%d  step %d/%d  loss %.3f  acc %.3f  %.1f images/s  ETA %s",
      p.epoch(), p.total_epochs(), p.step(), p.total_steps(), p.train_loss(),
      p.train_accuracy(), p.images_per_second(), Clock(p.eta()));
}

std::string DatasetText(const v1::DatasetStats& stats) {
  std::string text =
      absl::StrCat(stats.train_images(), " training and ", stats.test_images(),
                   " test images of ", stats.classes_size(), " classes");
  if (stats.duplicate_images() > 0) {
    absl::StrAppend(&text, "; ", stats.duplicate_images(),
                    " of the test images are in train/ too");
  }
  return text;
}

std::string SkippedText(const v1::DatasetStats& stats) {
  std::string text;
  const int shown = std::min(kFilesShown, stats.skipped_size());
  for (int i = 0; i < shown; ++i) {
    absl::StrAppend(&text, "skipped ", ToPrintable(stats.skipped(i).path()),
                    ": ", ToPrintable(stats.skipped(i).reason()), "\n");
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

std::string EventLine(const v1::JobEvent& event) {
  return absl::StrCat(LocalTime("%H:%M:%S", event.time()), " ",
                      ToPrintable(event.message()));
}

const v1::EpochMetrics* BestEpoch(const v1::Progress& progress) {
  for (const v1::EpochMetrics& epoch : progress.epochs()) {
    if (epoch.epoch() == progress.best_epoch()) return &epoch;
  }
  return nullptr;
}

void PrintJob(const v1::FineTuneJob& job, std::ostream& out) {
  out << "job       " << ToPrintable(job.job_id()) << "\n"
      << "state     " << StateText(job) << "\n"
      << "data set  " << ToPrintable(job.dataset());
  if (job.has_dataset_stats()) {
    out << ": " << DatasetText(job.dataset_stats());
  }
  out << "\nsettings  " << SettingsText(job.hyper_parameters()) << "\n";
  for (const auto& [key, value] : job.labels()) {
    out << "label     " << ToPrintable(key) << "=" << ToPrintable(value)
        << "\n";
  }
  out << SkippedText(job.dataset_stats());
  for (const v1::EpochMetrics& epoch : job.progress().epochs()) {
    out << EpochLine(epoch) << "\n";
  }
  if (const v1::EpochMetrics* const best = BestEpoch(job.progress())) {
    PrintClasses(*best, job.dataset_stats(), out);
  }
  if (job.state() == v1::JOB_STATE_RUNNING) {
    out << ProgressText(job.progress()) << "\n";
  }
  for (const std::string& warning : job.progress().warnings()) {
    out << "warning   " << ToPrintable(warning) << "\n";
  }
  for (const v1::JobEvent& event : job.events()) {
    out << "event     " << EventLine(event) << "\n";
  }
  if (job.has_model()) out << "model     " << ModelName(job.model()) << "\n";
  if (job.has_error()) {
    out << "error     " << ToPrintable(job.error().message()) << "\n";
  }
}

void PrintPlan(const v1::FineTuneJob& job, std::ostream& out) {
  const v1::DatasetStats& stats = job.dataset_stats();
  const int width = Width(stats.classes(), 5);
  out << absl::StrFormat("%-*s  train   test\n", width, "class");
  for (const v1::ClassCount& one : stats.classes()) {
    out << absl::StrFormat("%-*s  %5d  %5d\n", width, ToPrintable(one.label()),
                           one.train_images(), one.test_images());
  }
  out << SkippedText(stats) << DuplicatesText(stats) << "data set  "
      << ToPrintable(job.dataset()) << ": " << DatasetText(stats) << "\n"
      << "digest    " << ToPrintable(stats.digest()) << "\n"
      << "model     " << ToPrintable(job.model_name()) << "\n"
      << "settings  " << SettingsText(job.hyper_parameters()) << "\n"
      << "Nothing was started.\n";
}

void PrintJobs(const std::vector<v1::FineTuneJob>& jobs, std::ostream& out) {
  if (jobs.empty()) {
    out << "no jobs\n";
    return;
  }
  int id = 3, state = 5, model = 5;  // Widths, in columns.
  const auto widen = [](int& width, const std::string& text) {
    width = std::max(width, static_cast<int>(text.size()));
  };
  for (const v1::FineTuneJob& job : jobs) {
    widen(id, ToPrintable(job.job_id()));
    widen(state, StateText(job));
    widen(model, ToPrintable(job.model_name()));
  }
  constexpr char kRow[] = "%-*s  %-*s  %4s  %-16s  %-*s  %s\n";
  out << absl::StrFormat(kRow, id, "JOB", state, "STATE", "DONE", "CREATED",
                         model, "MODEL", "DATA SET");
  for (const v1::FineTuneJob& job : jobs) {
    out << absl::StrFormat(
        kRow, id, ToPrintable(job.job_id()), state, StateText(job),
        DoneText(job), LocalTime("%Y-%m-%d %H:%M", job.create_time()), model,
        ToPrintable(job.model_name()), ToPrintable(job.dataset()));
  }
}

}  // namespace finetune
