// A job in words: what commands print for people. What came from elsewhere
// (names, paths, messages) is in it as ToPrintable gives it.

#ifndef CLIENT_JOB_TEXT_H_
#define CLIENT_JOB_TEXT_H_

#include <ostream>
#include <string>
#include <vector>

#include "finetune/v1/job.pb.h"

namespace finetune {

// "running"; "queued, position 2".
std::string StateText(const v1::FineTuneJob& job);

// "pets@3".
std::string ModelName(const v1::ModelRef& model);

// "epoch 1, loss 0.512, train acc 0.781, test acc 0.902, time 31.2 sec".
std::string EpochLine(const v1::EpochMetrics& epoch);

// As absl::FormatTime, in the machine's time zone.
std::string LocalTime(const char* format,
                      const google::protobuf::Timestamp& time);

// "1:05:09", "5:09"; seconds are rounded up.
std::string Clock(const google::protobuf::Duration& duration);

// A running epoch: step, loss, speed, ETA.
std::string ProgressText(const v1::Progress& progress);

// "200 training and 40 test images of 2 classes", and what is doubtful.
std::string DatasetText(const v1::DatasetStats& stats);

// The first skipped files, each a line that ends with "\n".
std::string SkippedText(const v1::DatasetStats& stats);

std::string SettingsText(const v1::HyperParameters& parameters);

// "12:01:05 the trainer was killed", in local time.
std::string EventLine(const v1::JobEvent& event);

// The epoch whose weights are, or would now become, the model; null before the
// first one.
const v1::EpochMetrics* BestEpoch(const v1::Progress& progress);

// The job as a few lines: state, data set, settings, epochs, classes, events,
// model or error.
void PrintJob(const v1::FineTuneJob& job, std::ostream& out);

// What a job would be: its data set by class, what is wrong with it, settings.
void PrintPlan(const v1::FineTuneJob& job, std::ostream& out);

// One line a job under a heading.
void PrintJobs(const std::vector<v1::FineTuneJob>& jobs, std::ostream& out);

}  // namespace finetune

#endif  // CLIENT_JOB_TEXT_H_
