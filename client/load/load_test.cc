#include "client/load/load.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/load/requests.h"
#include "common/grpc_status.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// Answers "photo", refuses "much", and never answers "silence".
class Server : public v1::InferenceService::CallbackService {
 public:
  Server() {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    channel_ = server_->InProcessChannel(grpc::ChannelArguments());
  }

  grpc::ServerUnaryReactor* Classify(
      grpc::CallbackServerContext* context, const v1::ClassifyRequest* request,
      v1::ClassifyResponse* /*response*/) override {
    ++calls;
    const std::string& image = request->images(0);
    if (image == "silence") return new Silence;
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (image == "much") {
      reactor->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "too much"});
      return reactor;
    }
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  LoadReport Load(const std::vector<std::string>& images, LoadOptions options) {
    options.method = MethodOf(Protocol::kClassify);
    for (const std::string& image : images) {
      options.requests.push_back(
          MakeRequest(Protocol::kClassify, image, v1::ModelRef(), 0));
    }
    return RunLoad(channel_, options);
  }

  std::atomic<int> calls = 0;

 private:
  struct Silence : grpc::ServerUnaryReactor {
    void OnCancel() override { Finish(grpc::Status::CANCELLED); }
    void OnDone() override { delete this; }
  };

  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST(LoadTest, ClosedLoopSendsInTurnAndCountsByCode) {
  Server server;
  std::stop_source stop;
  std::vector<size_t> sent;
  const LoadReport report = server.Load(
      {"photo", "much"}, {.concurrency = 1,
                          .duration = absl::Hours(1),
                          .stop = stop.get_token(),
                          .on_answer = [&](const LoadAnswer& answer) {
                            sent.push_back(answer.request);
                            if (sent.size() == 100) stop.request_stop();
                          }});
  ASSERT_EQ(sent.size(), 100u);
  for (size_t i = 0; i < sent.size(); ++i) EXPECT_EQ(sent[i], i % 2);
  EXPECT_EQ(report.answered.size(), 50u);
  EXPECT_EQ(report.refused.size(), 50u);
  EXPECT_THAT(report.errors, UnorderedElementsAre(Pair(
                                 absl::StatusCode::kResourceExhausted, 50)));
  EXPECT_NEAR(report.answered_per_second * report.seconds, 50, 1e-6);
  EXPECT_EQ(report.in_time_per_second, report.answered_per_second);
  EXPECT_TRUE(std::is_sorted(report.answered.begin(), report.answered.end()));
}

TEST(LoadTest, EndsWithItsDurationAndCountsNothingThatEndsLater) {
  Server server;
  absl::Duration elapsed;
  size_t counted = 0;
  const LoadReport report = server.Load(
      {"photo"}, {.concurrency = 1,
                  .duration = absl::Milliseconds(100),
                  .on_answer = [&](const LoadAnswer& answer) {
                    elapsed += answer.took;
                    EXPECT_EQ(answer.counts, elapsed < absl::Milliseconds(100));
                    counted += answer.counts ? 1 : 0;
                  }});
  EXPECT_GE(elapsed, absl::Milliseconds(100));
  EXPECT_EQ(report.answered.size(), counted);
  EXPECT_NEAR(report.seconds, 0.1, 1e-9);
}

TEST(LoadTest, WarmUpDoesNotCount) {
  Server server;
  std::stop_source stop;
  absl::Duration elapsed;
  const LoadReport report =
      server.Load({"photo"}, {.concurrency = 1,
                              .warmup = absl::Milliseconds(100),
                              .duration = absl::Hours(1),
                              .stop = stop.get_token(),
                              .on_answer = [&](const LoadAnswer& answer) {
                                elapsed += answer.took;
                                EXPECT_EQ(answer.counts,
                                          elapsed >= absl::Milliseconds(100));
                                if (answer.counts) stop.request_stop();
                              }});
  EXPECT_EQ(report.answered.size(), 1u);
}

TEST(LoadTest, OpenLoopSendsAtItsRateToAServerThatDoesNotAnswer) {
  for (const bool poisson : {false, true}) {
    Server server;
    std::stop_source stop;
    int ended = 0;
    const absl::Time begin = absl::Now();
    const LoadReport report =
        server.Load({"silence"}, {.rate = 500,
                                  .poisson = poisson,
                                  .duration = absl::Hours(1),
                                  .deadline = absl::Milliseconds(50),
                                  .stop = stop.get_token(),
                                  .on_answer = [&](const LoadAnswer&) {
                                    if (++ended == 100) stop.request_stop();
                                  }});
    EXPECT_GE(ended, 100);
    EXPECT_THAT(
        report.errors,
        UnorderedElementsAre(Pair(absl::StatusCode::kDeadlineExceeded, ended)));
    EXPECT_EQ(report.answered.size(), 0u);
    const double due = 500 * absl::ToDoubleSeconds(absl::Now() - begin);
    EXPECT_LE(ended, poisson ? 1.5 * due + 50 : due + 1);
  }
}

TEST(LoadTest, TimesRunFromWhenACallWasDue) {
  Server server;
  std::stop_source stop;
  bool held_up = false;
  const LoadReport report =
      server.Load({"photo"}, {.rate = 1000,
                              .poisson = false,
                              .duration = absl::Hours(1),
                              .stop = stop.get_token(),
                              .on_answer = [&](const LoadAnswer&) {
                                if (std::exchange(held_up, true)) {
                                  stop.request_stop();
                                  return;
                                }
                                const absl::Time end =
                                    absl::Now() + absl::Milliseconds(100);
                                while (absl::Now() < end) {
                                }
                              }});
  // What was due in the meantime was sent late, and has waited.
  EXPECT_GE(Percentile(report.answered, 1), 90);
}

TEST(LoadTest, StopEndsIt) {
  Server server;
  std::stop_source stop;
  const LoadReport report = server.Load(
      {"photo"},
      {.duration = absl::Hours(1),
       .stop = stop.get_token(),
       .on_answer = [&stop](const LoadAnswer&) { stop.request_stop(); }});
  EXPECT_EQ(server.calls, 1);
  EXPECT_LT(report.seconds, 60);
}

TEST(PercentileTest, IsOneOfTheValues) {
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0), 1);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.5), 2);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 0.99), 4);
  EXPECT_EQ(Percentile({1, 2, 3, 4}, 1), 4);
}

}  // namespace
}  // namespace finetune
