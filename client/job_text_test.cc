#include "client/job_text.h"

#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) {
    ++count;
  }
  return count;
}

// A job on `classes` classes, c0, c1, ...; the recall of ci is i / 100 in the
// best epoch, the second of three, and 0 in the others.
v1::FineTuneJob JobOf(int classes) {
  v1::FineTuneJob job;
  job.set_job_id("ft-1");
  job.set_dataset("pets");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_progress()->set_best_epoch(2);
  for (int number = 1; number <= 3; ++number) {
    auto& epoch = *job.mutable_progress()->add_epochs();
    epoch.set_epoch(number);
    for (int i = 0; i < classes; ++i) {
      epoch.add_classes()->set_recall(number == 2 ? i / 100.0 : 0);
    }
  }
  for (int i = 0; i < classes; ++i) {
    auto& one = *job.mutable_dataset_stats()->add_classes();
    one.set_label(absl::StrCat("c", i));
    one.set_train_images(100 + i);
    one.set_test_images(10 + i);
  }
  return job;
}

std::string Printed(const v1::FineTuneJob& job) {
  std::ostringstream out;
  PrintJob(job, out);
  return out.str();
}

TEST(PrintJobTest, ShowsDatasetSkippedFilesAndSettings) {
  v1::FineTuneJob job;
  job.set_dataset("pets");
  auto& stats = *job.mutable_dataset_stats();
  stats.set_train_images(200);
  stats.set_skipped_images(7);
  stats.set_duplicate_images(3);
  for (int i = 0; i < 7; ++i) {
    auto& skipped = *stats.add_skipped();
    skipped.set_path("train/a/x.txt");
    skipped.set_reason("not an image");
  }
  job.mutable_hyper_parameters()->set_learning_rate(0.01);
  const std::string text = Printed(job);
  EXPECT_THAT(text, HasSubstr("pets: 200 training"));
  EXPECT_THAT(text, HasSubstr("; 3 of the test images are in train/ too\n"));
  EXPECT_EQ(CountOf(text, "train/a/x.txt: not an image"), 5);
  EXPECT_THAT(text, HasSubstr("skipped 2 more files"));
  EXPECT_THAT(text, HasSubstr("lr 0.01"));
}

TEST(PrintJobTest, ShowsLabelsWarningsAndEvents) {
  v1::FineTuneJob job = JobOf(2);
  (*job.mutable_labels())["team"] = "vision";
  job.mutable_progress()->add_warnings("the loss overshoots");
  job.add_events()->set_message("killed by signal 9");
  const std::string text = Printed(job);
  EXPECT_THAT(text, HasSubstr("label     team=vision\n"));
  EXPECT_THAT(text, HasSubstr("warning   the loss overshoots\n"));
  EXPECT_THAT(
      text, ::testing::ContainsRegex("event     [0-9:]+ killed by signal 9\n"));
}

TEST(PrintJobTest, FewClassesAreAllShownAsTheBestEpochHasThem) {
  const std::string text = Printed(JobOf(2));
  EXPECT_THAT(text,
              HasSubstr("class  precision  recall  test images (epoch 2)\n"
                        "c0         0.000   0.000           10\n"
                        "c1         0.000   0.010           11\n"));
  EXPECT_THAT(text, Not(HasSubstr("more classes")));
}

TEST(PrintJobTest, OfManyClassesThoseFoundLeastAreShown) {
  v1::FineTuneJob job = JobOf(25);
  job.mutable_progress()->mutable_epochs(1)->mutable_classes(0)->set_recall(1);
  const std::string text = Printed(job);
  EXPECT_THAT(text, Not(HasSubstr("\nc0 ")));
  EXPECT_THAT(text, HasSubstr("\nc1 "));
  EXPECT_THAT(text, HasSubstr("\nc20 "));
  EXPECT_THAT(text, Not(HasSubstr("\nc21 ")));
  EXPECT_THAT(text, HasSubstr("5 more classes with a higher recall\n"));
}

TEST(PrintPlanTest, ShowsCountsByClassDuplicatesAndDigest) {
  v1::FineTuneJob job = JobOf(2);
  job.set_model_name("pets");
  auto& stats = *job.mutable_dataset_stats();
  stats.set_digest("0123abcd");
  stats.set_duplicate_images(2);
  auto& duplicate = *stats.add_duplicates();
  duplicate.set_test_path("test/a/1.jpg");
  duplicate.set_train_path("train/a/9.jpg");
  std::ostringstream out;
  PrintPlan(job, out);
  EXPECT_THAT(out.str(), HasSubstr("class  train   test\n"
                                   "c0       100     10\n"
                                   "c1       101     11\n"));
  EXPECT_THAT(out.str(), HasSubstr("test/a/1.jpg equals train/a/9.jpg\n"
                                   "1 more test images are in train/ too\n"));
  EXPECT_THAT(out.str(), HasSubstr("digest    0123abcd\n"));
}

TEST(PrintJobTest, NamesFromElsewhereCannotDrawOnTheTerminal) {
  v1::FineTuneJob job = JobOf(2);
  const std::string bad = "x\x1b[2J\ny\xc2\x9b\xff";
  const std::string good = "x\\x1b[2J\\ny\\xc2\\x9b\\xff";
  job.set_job_id(bad);
  job.set_dataset(bad);
  job.set_model_name(bad);
  (*job.mutable_labels())[bad] = bad;
  job.mutable_progress()->add_warnings(bad);
  job.add_events()->set_message(bad);
  job.mutable_model()->set_name(bad);
  job.mutable_error()->set_message(bad);
  auto& stats = *job.mutable_dataset_stats();
  stats.mutable_classes(0)->set_label(bad);
  stats.add_skipped()->set_path(bad);
  stats.mutable_skipped(0)->set_reason(bad);
  stats.add_duplicates()->set_test_path(bad);
  stats.mutable_duplicates(0)->set_train_path(bad);
  std::ostringstream out;
  PrintJob(job, out);
  PrintPlan(job, out);
  PrintJobs({job}, out);
  EXPECT_THAT(out.str(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(out.str(), Not(HasSubstr("\ny")));
  EXPECT_THAT(out.str(), Not(HasSubstr("\xc2\x9b")));
  EXPECT_THAT(out.str(), Not(HasSubstr("\xff")));
  EXPECT_EQ(CountOf(out.str(), good), 21);
  EXPECT_THAT(out.str(),
              HasSubstr("class" + std::string(good.size() - 5, ' ') +
                        "  train   test\n" + good + "    100     10\n"));
}

TEST(PrintJobsTest, IsATable) {
  v1::FineTuneJob running = JobOf(2);
  running.set_model_name("pets");
  running.mutable_progress()->set_fraction_done(0.426);
  v1::FineTuneJob queued;
  queued.set_job_id("ft-22");
  queued.set_state(v1::JOB_STATE_QUEUED);
  queued.set_queue_position(3);
  queued.set_dataset("birds");
  std::ostringstream out;
  PrintJobs({running, queued}, out);
  EXPECT_THAT(
      out.str(),
      ::testing::MatchesRegex(
          "JOB    STATE               DONE  CREATED           MODEL  DATA SET\n"
          "ft-1   running              43%  [-0-9]+ [0-9:]+  pets   pets\n"
          "ft-22  queued, position 3     -  [-0-9]+ [0-9:]+         birds\n"));
  std::ostringstream none;
  PrintJobs({}, none);
  EXPECT_EQ(none.str(), "no jobs\n");
}

}  // namespace
}  // namespace finetune
