// A load whose every answer is checked.

#ifndef SERVER_TESTING_CHECKED_LOAD_H_
#define SERVER_TESTING_CHECKED_LOAD_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/load/load.h"
#include "client/load/requests.h"
#include "gtest/gtest.h"
#include "server/testing/soak_server.h"

namespace finetune::testing {

// Sends `requests` to `server`, which must outlive this; a wrong answer fails
// the test.
class CheckedLoad {
 public:
  CheckedLoad(const SoakServer& server, std::vector<SoakRequest> requests)
      : server_(server), requests_(std::move(requests)) {}

  LoadReport Run(const std::shared_ptr<grpc::Channel>& channel,
                 LoadOptions options) {
    options.method = MethodOf(Protocol::kClassify);
    for (const SoakRequest& request : requests_) {
      options.requests.push_back(request.bytes);
    }
    options.on_answer = [this](const LoadAnswer& answer) { Check(answer); };
    return RunLoad(channel, options);
  }

  // So far, whatever came of them.
  int answers() const { return answers_; }

  void WaitForAnswers(int count) const {
    for (int seen = answers_; seen < count; seen = answers_) {
      answers_.wait(seen);
    }
  }

  // Those that failed, by code. Not while it runs.
  const std::map<absl::StatusCode, int>& failures() const { return failures_; }

 private:
  void Check(const LoadAnswer& answer) {
    if (answer.status.ok()) {
      const std::string fault =
          server_.FindFault(requests_[answer.request], answer.bytes);
      EXPECT_EQ(fault, "");
    } else {
      ++failures_[static_cast<absl::StatusCode>(answer.status.error_code())];
    }
    ++answers_;
    answers_.notify_all();
  }

  const SoakServer& server_;
  const std::vector<SoakRequest> requests_;
  std::atomic<int> answers_ = 0;
  std::map<absl::StatusCode, int> failures_;
};

}  // namespace finetune::testing

#endif  // SERVER_TESTING_CHECKED_LOAD_H_
