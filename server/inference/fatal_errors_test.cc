#include "server/inference/fatal_errors.h"

#include <stdexcept>
#include <string>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/inference/servable.h"

namespace finetune {
namespace {

// A model that throws `what`, run once. Returns what was reported.
std::string Reported(const char* what) {
  std::string reported = "nothing";
  const ClassifyFn classify = ReportingFatalErrors(
      [what](absl::Span<const absl::string_view>) -> BatchResult {
        throw std::runtime_error(what);
      },
      [&](const std::string& message) { reported = message; });
  EXPECT_THROW(classify({}), std::runtime_error);
  return reported;
}

TEST(ReportingFatalErrorsTest, CudaErrorIsReportedAndThrownOn) {
  EXPECT_EQ(Reported("CUDA error: an illegal memory access was encountered"),
            "CUDA error: an illegal memory access was encountered");
}

TEST(ReportingFatalErrorsTest, OtherErrorsAreOnlyThrownOn) {
  EXPECT_EQ(Reported("CUDA out of memory. Tried to allocate 1 GiB"), "nothing");
  EXPECT_EQ(Reported("CUDA error: out of memory"), "nothing");
  EXPECT_EQ(Reported("sizes do not match"), "nothing");
}

TEST(ReportingFatalErrorsTest, ResultsAreHandedThrough) {
  const ClassifyFn classify = ReportingFatalErrors(
      [](absl::Span<const absl::string_view> images) {
        BatchResult result;
        result.images.assign(images.size(), Probabilities{1.0f});
        return result;
      },
      [](const std::string&) { ADD_FAILURE(); });
  EXPECT_EQ(classify({"a", "b"}).images.size(), 2u);
}

}  // namespace
}  // namespace finetune
