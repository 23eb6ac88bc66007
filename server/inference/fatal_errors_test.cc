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

// A model that throws `what`, run once on a device that then works or not.
// Returns what was reported.
std::string Reported(const char* what, bool works) {
  std::string reported = "nothing";
  const ForwardFn forward = ReportingFatalErrors(
      [what](const auto&...) -> std::vector<Probabilities> {
        throw std::runtime_error(what);
      },
      [works] { return works; },
      [&](const std::string& message) { reported = message; });
  EXPECT_THROW(forward({}, 1), std::runtime_error);
  return reported;
}

TEST(ReportingFatalErrorsTest, ErrorThatTheDeviceDoesNotSurviveIsReported) {
  for (const char* what :
       {"CUDA error: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"}) {
    EXPECT_EQ(Reported(what, /*works=*/false), what);
  }
}

TEST(ReportingFatalErrorsTest, ErrorThatTheDeviceSurvivesIsOnlyThrownOn) {
  for (const char* what :
       {"CUDA out of memory. Tried to allocate 1 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA error: operation not permitted when stream is capturing",
        "CUDA error: no kernel image is available for execution",
        "sizes do not match"}) {
    EXPECT_EQ(Reported(what, /*works=*/true), "nothing") << what;
  }
}

TEST(ReportingFatalErrorsTest, ResultsAreHandedThrough) {
  const ForwardFn forward = ReportingFatalErrors(
      [](const auto& inputs, int) {
        return std::vector<Probabilities>(inputs.size(), Probabilities{1.0f});
      },
      [] {
        ADD_FAILURE();
        return true;
      },
      [](const std::string&) { ADD_FAILURE(); });
  const uint8_t input = 0;
  EXPECT_EQ(forward({&input, &input}, 1).size(), 2u);
}

}  // namespace
}  // namespace finetune
