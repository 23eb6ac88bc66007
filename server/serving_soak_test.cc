// Serving under strain: versions promoted back and forth under load, hours of
// good and bad clients together, and far more requests than can be answered.
// The suite runs short forms; what they bound loosely the long ones bound as
// the project promises:
//
//   SOAK_PROMOTIONS   promotions to make, 20 by default; long from 1000
//   SOAK_SECONDS      of mixed load, 5 by default; long from 600
//   OVERLOAD_SECONDS  of overload, 4 by default; long from 60

#include <algorithm>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/load/load.h"
#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/testing/bad_clients.h"
#include "server/testing/checked_load.h"
#include "server/testing/server_process.h"
#include "server/testing/setting.h"
#include "server/testing/soak_server.h"

namespace finetune {
namespace {

using testing::CheckedLoad;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::Setting;
using testing::SoakServer;

constexpr int kClients = 4;  // Good ones.

class ServingSoakTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(server_.process().channel(), nullptr);
    ASSERT_FALSE(HasFailure());
  }

  void Promote(int64_t version) {
    v1::PromoteModelRequest request;
    request.mutable_model()->set_name(SoakServer::kModel);
    request.mutable_model()->set_version(version);
    v1::PromoteModelResponse response;
    grpc::ClientContext context;
    ASSERT_THAT(
        FromGrpcStatus(v1::ModelService::NewStub(server_.process().channel())
                           ->PromoteModel(&context, request, &response)),
        IsOk());
    EXPECT_EQ(response.model().ref().version(), version);
  }

  // The server answers as ever, and ends as ever.
  void ExpectHealthy() {
    CheckedLoad load(server_, server_.MixedRequests({1, 2}));
    load.Run(server_.process().Connect(),
             {.duration = absl::Milliseconds(300),
              .deadline = absl::InfiniteDuration()});
    EXPECT_THAT(load.failures(), IsEmpty());
    EXPECT_EQ(server_.process().Terminate(), 0);
  }

  // Offers three times what can be answered. Whether enough is answered, what
  // is accepted keeps its deadline, and the rest is refused at once.
  bool StandsOverload(int seconds, bool is_long) {
    CheckedLoad load(server_, server_.SmallRequests());
    const auto channel = server_.process().Connect();
    const LoadReport peak =
        load.Run(channel, {.concurrency = 32,
                           .warmup = absl::Seconds(1),
                           .duration = absl::Seconds(is_long ? 10 : 2)});
    EXPECT_THAT(peak.errors, IsEmpty());
    LoadReport over = load.Run(channel, {.rate = 3 * peak.answered_per_second,
                                         .warmup = absl::Seconds(1),
                                         .duration = absl::Seconds(seconds),
                                         .deadline = absl::Seconds(1)});
    const int64_t refused = over.errors[absl::StatusCode::kResourceExhausted];
    const int64_t late = over.errors[absl::StatusCode::kDeadlineExceeded];
    std::cout << "peak " << peak.answered_per_second
              << " images/s; at three times that " << over.in_time_per_second
              << " in time, p99 " << Percentile(over.answered, 0.99) << " ms; "
              << refused << " refused, p99 " << Percentile(over.refused, 0.99)
              << " ms; " << late << " too late\n";
    over.errors.erase(absl::StatusCode::kResourceExhausted);
    over.errors.erase(absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(over.errors, IsEmpty());
    return over.in_time_per_second >=
               (is_long ? 0.9 : 0.7) * peak.answered_per_second &&
           Percentile(over.refused, 0.99) <= (is_long ? 5 : 50) &&
           static_cast<double>(late) <=
               (is_long ? 0.01 : 0.1) *
                   static_cast<double>(over.answered.size() + late);
  }

  double Memory() const { return server_.process().ResidentMegabytes(); }

  mutable SoakServer server_;
};

TEST_F(ServingSoakTest, PromotionsUnderLoadFailNoRequestAndMixNoVersions) {
  const int promotions = Setting("SOAK_PROMOTIONS", 20);
  const bool is_long = promotions >= 1000;
  CheckedLoad load(server_, server_.MixedRequests({0}));
  const auto channel = server_.process().Connect();
  const LoadReport calm = load.Run(
      channel,
      {.concurrency = kClients, .duration = absl::Seconds(is_long ? 20 : 1)});

  LoadReport report;
  std::jthread clients([&](std::stop_token stop) {
    report = load.Run(channel, {.concurrency = kClients,
                                .duration = absl::InfiniteDuration(),
                                .stop = stop});
  });
  double early = 0;
  for (int i = 0; i < promotions && !HasFailure(); ++i) {
    Promote(1 + i % 2);
    // More than are on their way: one at least began after the promotion.
    load.WaitForAnswers(load.answers() + kClients + 1);
    if (i == std::min(50, promotions / 2)) early = Memory();
  }
  const double late = Memory();
  clients.request_stop();
  clients.join();

  EXPECT_THAT(load.failures(), IsEmpty());
  std::cout << promotions << " promotions, " << report.answered.size()
            << " answers, p99 " << Percentile(report.answered, 0.99)
            << " ms (without promotions " << Percentile(calm.answered, 0.99)
            << " ms), memory " << early << " MB, then " << late << " MB\n";
  EXPECT_LT(late, is_long ? 1.05 * early : 1.2 * early + 50);
  if (is_long) {
    EXPECT_LT(Percentile(report.answered, 0.99),
              2 * Percentile(calm.answered, 0.99));
  }
  ExpectHealthy();
}

TEST_F(ServingSoakTest, BadClientsSpoilNothingForGoodOnes) {
  const int seconds = Setting("SOAK_SECONDS", 5);
  std::vector<std::jthread> bad_clients;
  for (const auto& misbehave :
       {testing::GiveUp, testing::SendBadImages, testing::SendNoMessage,
        testing::LeaveStreamUnread, testing::FallSilent}) {
    bad_clients.emplace_back([this, misbehave](std::stop_token stop) {
      while (!stop.stop_requested()) misbehave(server_);
    });
  }
  CheckedLoad load(server_, server_.MixedRequests({0, 1, 2}));
  const auto run = [&](double share) {
    load.Run(server_.process().Connect(),
             {.concurrency = kClients,
              .duration = absl::Seconds(share * seconds),
              .deadline = absl::InfiniteDuration()});
  };
  run(0.2);
  const double early = Memory();
  run(0.8);
  const double late = Memory();
  for (std::jthread& client : bad_clients) client.request_stop();
  bad_clients.clear();

  EXPECT_THAT(load.failures(), IsEmpty());
  EXPECT_GT(load.answers(), kClients);
  std::cout << load.answers() << " answers in " << seconds << " s, memory "
            << early << " MB, then " << late << " MB\n";
  EXPECT_LT(late, seconds >= 600 ? 1.05 * early : 1.5 * early + 100);
  ExpectHealthy();
}

TEST_F(ServingSoakTest, OverloadIsRefusedAtOnceAndTheRestAnsweredInTime) {
  const int seconds = Setting("OVERLOAD_SECONDS", 4);
  // A neighbour on the machine may spoil a short round, but not each of three.
  const bool is_long = seconds >= 60;
  int rounds = is_long ? 1 : 3;
  while (rounds > 0 && !StandsOverload(seconds, is_long)) --rounds;
  EXPECT_GT(rounds, 0);
  ExpectHealthy();
}

}  // namespace
}  // namespace finetune
