#include "server/library_log.h"

#include <string>
#include <vector>

#include "finetune/v1/model.pb.h"
#include "gmock/gmock.h"
#include "grpc/support/log.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/log.h"
#include "server/testing/log_file.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

class LibraryLogTest : public ::testing::Test {
 protected:
  LibraryLogTest() {
    SetUpLog({.format = "json"}, file_.get());
    gpr_log_verbosity_init();  // As grpc_init does.
    CaptureStderr();
  }

  // Ends the log and returns its lines.
  std::vector<nlohmann::json> Lines() {
    std::vector<nlohmann::json> lines;
    for (const std::string& line : file_.Lines()) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  // Makes Protobuf complain, as any caller can.
  static void ParseBrokenUtf8() {
    v1::ModelRef ref;
    EXPECT_FALSE(ref.ParseFromString("\x0a\x01\xff"));
  }

  testing::LogFile file_;
};

TEST_F(LibraryLogTest, ProtobufsLinesAreOurs) {
  {
    const LibraryLog log;
    ParseBrokenUtf8();
  }
  EXPECT_EQ(GetCapturedStderr(), "");
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["level"], "warning");
  EXPECT_EQ(lines[0]["library"], "protobuf");
  EXPECT_THAT(lines[0]["message"].get<std::string>(),
              HasSubstr("finetune.v1.ModelRef.name"));
}

TEST_F(LibraryLogTest, GrpcsLinesAreOurs) {
  {
    const LibraryLog log;
    gpr_log("tsi.cc", 7, GPR_LOG_SEVERITY_ERROR, "handshake %d", 3);
  }
  EXPECT_EQ(GetCapturedStderr(), "");
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["level"], "warning");
  EXPECT_EQ(lines[0]["library"], "grpc");
  EXPECT_EQ(lines[0]["message"], "handshake 3");
  EXPECT_EQ(lines[0]["source"], "tsi.cc:7");
}

TEST_F(LibraryLogTest, LastWordsBeforeAnAbortAreNotLostInTheQueue) {
  const LibraryLog log;
  gpr_log("a.cc", 1, GPR_LOG_SEVERITY_ERROR, "assertion failed: x > 0");
  EXPECT_EQ(GetCapturedStderr(), "assertion failed: x > 0\n");
  EXPECT_EQ(Lines().size(), 1u);
}

TEST_F(LibraryLogTest, AfterwardsTheyPrintAsBefore) {
  { const LibraryLog log; }
  ParseBrokenUtf8();
  gpr_log("tsi.cc", 7, GPR_LOG_SEVERITY_ERROR, "handshake");
  const std::string printed = GetCapturedStderr();
  EXPECT_THAT(printed, HasSubstr("invalid UTF-8"));
  EXPECT_THAT(printed, HasSubstr("handshake"));
  EXPECT_TRUE(Lines().empty());
}

}  // namespace
}  // namespace finetune
