#include <string>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/metrics.h"
#include "server/testing/http_get.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using testing::HttpGet;
using testing::IsOk;
using ::testing::Not;
using ::testing::StartsWith;
using testing::StatusIs;

const BuildInfo kBuild = {
    .version = "1.2.3", .libtorch = "2.13.0", .device = "cpu"};

TEST(MetricsTest, CallsAreCountedByMethodAndCode) {
  Metrics metrics(kBuild, {});
  metrics.CountCall("a.B/C", "OK", absl::Milliseconds(3));
  metrics.CountCall("a.B/C", "OK", absl::Milliseconds(3));
  metrics.CountCall("a.B/C", "NOT_FOUND", absl::Milliseconds(3));
  metrics.CountCall("other", "UNIMPLEMENTED", absl::Milliseconds(3));
  EXPECT_THAT(
      metrics.Text(),
      AllOf(
          HasSubstr(R"(finetune_requests_total{code="OK",method="a.B/C"} 2)"),
          HasSubstr(
              R"(finetune_requests_total{code="NOT_FOUND",method="a.B/C"} 1)"),
          HasSubstr(
              R"(finetune_requests_total{code="UNIMPLEMENTED",method="other"} 1)"),
          HasSubstr(R"(finetune_request_seconds_count{method="a.B/C"} 3)")));
}

TEST(MetricsTest, StagesOfAClassificationAreSeconds) {
  Metrics metrics(kBuild, {});
  metrics.ObserveClassify({.queue = absl::Milliseconds(1.5),
                           .preprocess = absl::Milliseconds(3),
                           .compute = absl::Milliseconds(15),
                           .total = absl::Milliseconds(25)});
  metrics.ObserveBatch(3);
  metrics.CountPromotion();
  EXPECT_THAT(
      metrics.Text(),
      AllOf(
          HasSubstr(R"(finetune_classify_queue_seconds_bucket{le="0.001"} 0)"),
          HasSubstr(R"(finetune_classify_queue_seconds_bucket{le="0.002"} 1)"),
          HasSubstr("finetune_classify_preprocess_seconds_sum 0.003"),
          HasSubstr("finetune_classify_compute_seconds_sum 0.015"),
          HasSubstr("finetune_classify_total_seconds_sum 0.025"),
          HasSubstr(R"(finetune_classify_batch_images_bucket{le="2"} 0)"),
          HasSubstr(R"(finetune_classify_batch_images_bucket{le="4"} 1)"),
          HasSubstr("finetune_model_promotions_total 1")));
}

TEST(MetricsTest, ValuesOfOtherRoomsAreThoseOfTheMomentOfTheScrape) {
  QueueStats queue;
  Metrics metrics(
      kBuild,
      {.queue = [&] { return queue; },
       .models =
           [] {
             return LoadedModelStats{.loaded = 2,
                                     .loads = 5,
                                     .load_failures = 1,
                                     .load_time = absl::Seconds(2)};
           },
       .jobs_by_state =
           [] {
             return std::map<v1::JobState, int64_t>{{v1::JOB_STATE_FAILED, 3}};
           },
       .dropped_log_lines = [] { return 7u; },
       .state_disk = [] { return Space{.total_bytes = 100, .free_bytes = 40}; },
       .memory = [] { return Space{.total_bytes = 64, .free_bytes = 24}; },
       .gpu_memory = [] { return Space{.total_bytes = 80, .free_bytes = 9}; }});
  EXPECT_THAT(metrics.Text(), HasSubstr("finetune_classify_waiting_images 0"));
  queue = {
      .waiting_images = 9, .max_waiting_images = 512, .dropped_by_deadline = 4};
  EXPECT_THAT(
      metrics.Text(),
      AllOf(
          HasSubstr("finetune_classify_waiting_images 9"),
          HasSubstr(R"(finetune_classify_dropped_total{reason="deadline"} 4)"),
          HasSubstr(R"(finetune_classify_dropped_total{reason="cancelled"} 0)"),
          HasSubstr("finetune_models_loaded 2"),
          HasSubstr("finetune_model_loads_total 5"),
          HasSubstr("finetune_model_load_failures_total 1"),
          HasSubstr("finetune_model_load_seconds_total 2"),
          HasSubstr(R"(finetune_jobs{state="failed"} 3)"),
          HasSubstr(R"(finetune_jobs{state="running"} 0)"),
          HasSubstr("finetune_classify_max_waiting_images 512"),
          HasSubstr("finetune_state_disk_bytes 100"),
          HasSubstr("finetune_state_disk_free_bytes 40"),
          HasSubstr("finetune_memory_limit_bytes 64"),
          HasSubstr("finetune_memory_used_bytes 40"),
          HasSubstr("finetune_gpu_memory_total_bytes 80"),
          HasSubstr("finetune_gpu_memory_free_bytes 9"),
          HasSubstr("finetune_log_lines_dropped_total 7")));
}

TEST(MetricsTest, RunningJobsShowHowTheyTrain) {
  Metrics metrics(kBuild, {.running_jobs = [] {
                    v1::FineTuneJob job;
                    job.set_job_id("job-1");
                    v1::Progress& progress = *job.mutable_progress();
                    progress.set_images_per_second(12.5);
                    progress.set_data_wait_fraction(0.25);
                    progress.set_train_loss(0.5);
                    progress.add_epochs()->set_test_accuracy(0.125);
                    progress.add_epochs()->set_test_accuracy(0.75);
                    return std::vector<v1::FineTuneJob>{job};
                  }});
  EXPECT_THAT(
      metrics.Text(),
      AllOf(
          HasSubstr(R"(finetune_training_images_per_second{job="job-1"} 12.5)"),
          HasSubstr(R"(finetune_training_data_wait_ratio{job="job-1"} 0.25)"),
          HasSubstr(R"(finetune_training_loss{job="job-1",split="train"} 0.5)"),
          HasSubstr(
              R"(finetune_training_accuracy{job="job-1",split="test"} 0.75)")));
}

TEST(MetricsTest, SpaceThatIsNotKnownIsLeftOut) {
  const std::string text =
      Metrics(kBuild, {.state_disk = [] { return std::nullopt; },
                       .memory = [] { return std::nullopt; },
                       .gpu_memory = [] { return std::nullopt; }})
          .Text();
  EXPECT_THAT(text, Not(HasSubstr("finetune_state_disk")));
  EXPECT_THAT(text, Not(HasSubstr("finetune_memory")));
  EXPECT_THAT(text, Not(HasSubstr("finetune_gpu")));
}

TEST(MetricsTest, ProcessAndBuildAreShown) {
  const std::string text = Metrics(kBuild, {}).Text();
  EXPECT_THAT(text, ContainsRegex("process_resident_memory_bytes [1-9]"));
  EXPECT_THAT(text, ContainsRegex("process_cpu_seconds_total [0-9]"));
  EXPECT_THAT(
      text,
      HasSubstr(
          R"(finetune_build_info{device="cpu",libtorch="2.13.0",version="1.2.3"} 1)"));
  EXPECT_THAT(text, Not(HasSubstr("finetune_models_loaded")));  // No source.
}

// More than CUDA's libraries take of each thread's stack.
thread_local volatile char thread_locals[300'000];

TEST(MetricsTest, AreServedOverHttpOnAPortThatWasFree) {
  thread_locals[0] = 1;
  Metrics metrics(kBuild, {.dropped_log_lines = [] { return 7u; }});
  const auto address = metrics.Expose("127.0.0.1:0");
  ASSERT_THAT(address, IsOk());
  const std::string answer = HttpGet(*address, "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("finetune_build_info{"));
  EXPECT_THAT(answer, HasSubstr("finetune_log_lines_dropped_total 7"));
  EXPECT_THAT(HttpGet(*address, "/"), Not(StartsWith("HTTP/1.1 200")));
  metrics.Close();
  EXPECT_EQ(HttpGet(*address, "/metrics"), "");
}

TEST(MetricsTest, AddressThatIsTakenIsOneClearError) {
  Metrics first(kBuild, {}), second(kBuild, {});
  const auto address = first.Expose("127.0.0.1:0");
  ASSERT_THAT(address, IsOk());
  const auto taken = second.Expose(*address);
  EXPECT_THAT(taken, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(std::string(taken.status().message()), HasSubstr(*address));
}

TEST(MetricsTest, AddressWithoutAPortIsRefused) {
  for (const char* address : {"127.0.0.1", ":9090", "localhost:", "a:b", ""}) {
    EXPECT_THAT(Metrics(kBuild, {}).Expose(address),
                StatusIs(absl::StatusCode::kInvalidArgument))
        << address;
  }
}

}  // namespace
}  // namespace finetune
