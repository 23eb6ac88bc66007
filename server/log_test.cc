#include "server/log.h"

#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/testing/log_file.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogTest : public ::testing::Test {
 protected:
  std::vector<std::string> Lines() { return file_.Lines(); }

  testing::LogFile file_;
};

TEST_F(LogTest, JsonLineHasTimeLevelAndMessage) {
  SetUpLog({.format = "json"}, file_.get());
  spdlog::warn("disk {} is full", 3);
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  const auto line = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["message"], "disk 3 is full");
  EXPECT_THAT(line["time"].get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:"
                           "[0-9]{2}\\.[0-9]{3}Z"));
  EXPECT_EQ(line.size(), 3u);
}

TEST_F(LogTest, QuotesNewlinesAndBrokenUtf8StayOneValidLine) {
  SetUpLog({.format = "json"}, file_.get());
  const std::string nasty = "say \"no\"\n{\"level\":\"error\"}\\ \x01 \xff\xfe";
  spdlog::info("{}", nasty);
  LogEvent(spdlog::level::info, {{"message", "call"}, {"error", nasty}});
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 2u);
  const auto plain = nlohmann::json::parse(lines[0]);
  EXPECT_THAT(plain["message"].get<std::string>(),
              HasSubstr("say \"no\"\n{\"level\":\"error\"}\\ \x01 \ufffd"));
  EXPECT_EQ(plain["level"], "info");
  EXPECT_EQ(nlohmann::json::parse(lines[1])["error"], plain["message"]);
}

TEST_F(LogTest, EventsFieldsStandBesideTimeAndLevelInTheirOrder) {
  SetUpLog({.format = "json"}, file_.get());
  LogEvent(spdlog::level::info,
           {{"message", "call"}, {"z", 1.5}, {"a", "text"}});
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("\"level\":\"info\",\"message\":\"call\","
                                  "\"z\":1.5,\"a\":\"text\"}\n"));
}

TEST_F(LogTest, TextIsForPeople) {
  SetUpLog({.format = "text"}, file_.get());
  spdlog::info("serving");
  EXPECT_THAT(Lines(), ::testing::ElementsAre(
                           MatchesRegex("\\[.*\\] \\[info\\] serving\n")));
}

TEST_F(LogTest, LogThatGoesToNoTerminalIsJson) {
  SetUpLog({}, file_.get());
  spdlog::info("serving");
  EXPECT_EQ(nlohmann::json::parse(Lines().at(0))["message"], "serving");
}

TEST_F(LogTest, LevelsBelowTheOneAskedForAreLeftOut) {
  SetUpLog({.format = "text", .level = "warn"}, file_.get());
  spdlog::info("quiet");
  LogEvent(spdlog::level::info, {{"message", "quiet"}});
  spdlog::error("loud");
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("loud"));
}

TEST_F(LogTest, LinesAreDroppedAndCountedWhereTheReaderIsTooSlow) {
  // A pipe that nobody reads holds 64 KiB; the queue thousands of lines.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  FILE* const out = fdopen(ends[1], "w");
  SetUpLog({.format = "text"}, out);
  const std::string kilobyte(1024, 'x');
  for (int i = 0; i < 10'000; ++i) spdlog::info(kilobyte);
  EXPECT_GT(DroppedLogLines(), 0u);
  // Now somebody does, and the log can end.
  std::jthread reader([fd = ends[0]] {
    char bytes[65536];
    while (read(fd, bytes, sizeof bytes) > 0) {
    }
  });
  ShutDownLog();
  fclose(out);
  reader.join();
  close(ends[0]);
}

}  // namespace
}  // namespace finetune
