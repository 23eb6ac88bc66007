#include "client/progress_printer.h"

#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::FineTuneJob Running(int step, int epochs_done) {
  v1::FineTuneJob job;
  job.set_state(v1::JOB_STATE_RUNNING);
  auto& progress = *job.mutable_progress();
  progress.set_epoch(epochs_done + 1);
  progress.set_total_epochs(3);
  progress.set_step(step);
  progress.set_total_steps(30);
  progress.set_fraction_done(step / 30.0);
  progress.mutable_eta()->set_seconds(69);
  for (int i = 1; i <= epochs_done; ++i) {
    auto& epoch = *progress.add_epochs();
    epoch.set_epoch(i);
    epoch.set_train_loss(0.5125);
    epoch.set_train_accuracy(0.781);
    epoch.set_test_accuracy(0.902);
    epoch.mutable_duration()->set_seconds(31);
    epoch.mutable_duration()->set_nanos(200'000'000);
  }
  return job;
}

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) {
    ++count;
  }
  return count;
}

TEST(ProgressPrinterTest, EachEpochIsOneLineOnceAlsoWhenTwoArriveTogether) {
  std::ostringstream out;
  ProgressPrinter printer(/*terminal_width=*/0, out);
  printer.Print(Running(5, 0));
  printer.Print(Running(10, 1));
  printer.Print(Running(11, 1));
  printer.Print(Running(30, 3));
  const std::string text = out.str();
  EXPECT_EQ(CountOf(text, "epoch 1, loss"), 1);
  EXPECT_EQ(CountOf(text, "epoch 2, loss"), 1);
  EXPECT_EQ(CountOf(text, "epoch 3, loss"), 1);
  EXPECT_THAT(text, HasSubstr("epoch 1, loss 0.512, train acc 0.781, "
                              "test acc 0.902, time 31.2 sec\n"));
}

TEST(ProgressPrinterTest, PipeGetsPlainLinesAtABoundedRate) {
  std::ostringstream out;
  ProgressPrinter printer(0, out);
  for (int step = 1; step <= 25; ++step) {
    printer.Print(Running(step, 0), absl::UnixEpoch() + absl::Seconds(step));
  }
  EXPECT_EQ(CountOf(out.str(), "epoch 1/3"), 3);
  EXPECT_THAT(out.str(), Not(HasSubstr("\033")));
  EXPECT_THAT(out.str(), HasSubstr("ETA 1:09"));
}

TEST(ProgressPrinterTest, BarFitsTheTerminal) {
  const std::string prefix = "\r\033[K[";
  for (int width = 10; width <= 200; ++width) {
    std::ostringstream out;
    ProgressPrinter printer(width, out);
    printer.Print(Running(15, 0));
    ASSERT_THAT(out.str(), ::testing::StartsWith(prefix));
    EXPECT_LE(out.str().size() - prefix.size() + 1,
              static_cast<size_t>(width - 1));
    EXPECT_THAT(out.str(), HasSubstr("##.")) << width;
  }
}

TEST(ProgressPrinterTest, EightyColumnsHoldBarAndAllNumbers) {
  std::ostringstream out;
  v1::FineTuneJob job = Running(15, 0);
  job.mutable_progress()->set_train_loss(0.5125);
  job.mutable_progress()->set_train_accuracy(0.781);
  job.mutable_progress()->set_images_per_second(105.3);
  ProgressPrinter(80, out).Print(job);
  EXPECT_EQ(out.str(),
            "\r\033[K[#########.........] epoch 1/3  loss 0.512  acc 0.781  "
            "105.3 images/s  ETA 1:09");
}

TEST(ProgressPrinterTest, NarrowTerminalKeepsEpochAndEta) {
  std::ostringstream out;
  ProgressPrinter(40, out).Print(Running(15, 0));
  EXPECT_THAT(out.str(), HasSubstr("] epoch 1/3  ETA 1:09"));
}

TEST(ProgressPrinterTest, EpochLineReplacesTheBarAndBreakLeavesIt) {
  std::ostringstream out;
  ProgressPrinter printer(80, out);
  printer.Print(Running(9, 0));
  out.str("");
  printer.Print(Running(10, 1));
  EXPECT_THAT(out.str(), ::testing::StartsWith("\r\033[Kepoch 1, loss"));
  out.str("");
  printer.Break();
  printer.Break();
  EXPECT_EQ(out.str(), "\n");
}

TEST(ProgressPrinterTest, QueueAndValidationAreSaid) {
  std::ostringstream out;
  ProgressPrinter printer(0, out);
  v1::FineTuneJob job;
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_queue_position(2);
  printer.Print(job);
  printer.Print(job);
  job.set_state(v1::JOB_STATE_VALIDATING);
  printer.Print(job);
  EXPECT_EQ(out.str(), "queued, position 2\nvalidating the data set\n");
}

TEST(ProgressPrinterTest, EndNamesTheModelOrTheError) {
  std::ostringstream out;
  v1::FineTuneJob job = Running(30, 3);
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.mutable_progress()->set_best_epoch(2);
  job.mutable_model()->set_name("hotdog");
  job.mutable_model()->set_version(4);
  ProgressPrinter(0, out).Print(job);
  EXPECT_THAT(out.str(),
              HasSubstr("model hotdog@4, test accuracy 0.902, best epoch 2; "
                        "try: finetune classify --model hotdog IMAGE\n"));

  std::ostringstream failed;
  job.set_state(v1::JOB_STATE_FAILED);
  job.mutable_error()->set_message("one class");
  ProgressPrinter(0, failed).Print(job);
  EXPECT_THAT(failed.str(), HasSubstr("failed: one class"));
}

TEST(ProgressPrinterTest, EachEventIsOneLineOnceAlsoWhereTheListHasMovedOn) {
  std::ostringstream out;
  ProgressPrinter printer(0, out);
  v1::FineTuneJob job = Running(0, 0);
  const auto add = [&job](int second, const char* message) {
    auto& event = *job.add_events();
    event.mutable_time()->set_seconds(second);
    event.set_message(message);
  };
  add(1, "killed by signal 9");
  add(2, "started again");
  printer.Print(job);
  printer.Print(job);
  job.mutable_events()->DeleteSubrange(0, 1);
  add(3, "killed by signal 11");
  printer.Print(job);
  EXPECT_EQ(CountOf(out.str(), "killed by signal 9\n"), 1);
  EXPECT_EQ(CountOf(out.str(), "started again\n"), 1);
  EXPECT_EQ(CountOf(out.str(), "killed by signal 11\n"), 1);
  EXPECT_THAT(out.str(), ::testing::ContainsRegex(
                             "[0-9][0-9]:[0-9][0-9]:01 killed by signal 9"));
}

TEST(ProgressPrinterTest, EachWarningIsOneLineOnce) {
  std::ostringstream out;
  ProgressPrinter printer(0, out);
  v1::FineTuneJob job = Running(0, 0);
  job.mutable_progress()->add_warnings("the loss overshoots");
  printer.Print(job);
  job.mutable_progress()->add_warnings("3 duplicates");
  printer.Print(job);
  EXPECT_EQ(CountOf(out.str(), "warning: the loss overshoots\n"), 1);
  EXPECT_EQ(CountOf(out.str(), "warning: 3 duplicates\n"), 1);
}

TEST(ProgressPrinterTest, CancellationIsSaidAndHowToGoOn) {
  std::ostringstream out;
  ProgressPrinter printer(0, out);
  v1::FineTuneJob job = Running(0, 0);
  job.set_job_id("ft-1");
  job.set_state(v1::JOB_STATE_CANCELLING);
  printer.Print(job);
  job.set_state(v1::JOB_STATE_CANCELLED);
  printer.Print(job);
  EXPECT_EQ(out.str(),
            "cancelling: the trainer writes a checkpoint\n"
            "cancelled; to go on: finetune resume ft-1\n");
}

TEST(ProgressPrinterTest, ModelThatIsNotPromotedIsNamedWithItsVersion) {
  std::ostringstream out;
  v1::FineTuneJob job = Running(30, 3);
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.set_hold_promotion(true);
  job.mutable_model()->set_name("hotdog");
  job.mutable_model()->set_version(4);
  ProgressPrinter(0, out).Print(job);
  EXPECT_THAT(out.str(),
              HasSubstr("model hotdog@4, not promoted; try: finetune classify "
                        "--model hotdog@4 IMAGE\n"));
}

TEST(ProgressPrinterTest, NamesFromElsewhereCannotDrawOnTheTerminal) {
  const std::string bad = "x\x1b[2J\ny", good = "x\\x1b[2J\\ny";
  std::ostringstream out;
  ProgressPrinter printer(/*terminal_width=*/0, out);
  v1::FineTuneJob job = Running(0, 0);
  job.set_job_id(bad);
  job.mutable_dataset_stats()->add_skipped()->set_path(bad);
  job.mutable_progress()->add_warnings(bad);
  job.add_events()->set_message(bad);
  printer.Print(job);
  job.mutable_error()->set_message(bad);
  job.mutable_model()->mutable_name()->assign(bad);
  for (const auto state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED,
                           v1::JOB_STATE_SUCCEEDED}) {
    job.set_state(state);
    printer.Print(job);
  }
  EXPECT_EQ(CountOf(out.str(), good), 7);
  EXPECT_THAT(out.str(), Not(HasSubstr("\x1b")));
}

}  // namespace
}  // namespace finetune
