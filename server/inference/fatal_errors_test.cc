#include "server/inference/fatal_errors.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "common/testing/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/inference/servable.h"

namespace finetune {
namespace {

// A model that throws `what`, run once. Returns what was reported.
std::string Reported(const char* what) {
  std::string reported = "nothing";
  const ForwardFn forward = ReportingFatalErrors(
      [what](const auto&...) -> std::vector<Probabilities> {
        throw std::runtime_error(what);
      },
      [&](const std::string& message) { reported = message; });
  EXPECT_THROW(forward({}, 1), std::runtime_error);
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
  const ForwardFn forward = ReportingFatalErrors(
      [](const auto& inputs, int) {
        return std::vector<Probabilities>(inputs.size(), Probabilities{1.0f});
      },
      [](const std::string&) { ADD_FAILURE(); });
  const float input = 0;
  EXPECT_EQ(forward({&input, &input}, 1).size(), 2u);
}

}  // namespace
}  // namespace finetune
