// A load: one method of a gRPC server called over and over, and what came of
// it. Either a closed loop, where so many callers each wait for their answer
// before they ask again, or an open one, where requests come when they come,
// whether or not the server keeps up.
//
// One thread does it all, with bytes made beforehand, so that the load costs
// the server's machine little.

#ifndef CLIENT_LOAD_LOAD_H_
#define CLIENT_LOAD_LOAD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"

namespace finetune {

struct LoadAnswer {
  size_t request;  // Index into LoadOptions::requests.
  const grpc::Status& status;
  const grpc::ByteBuffer& bytes;  // Of the message, where the status is OK.
  absl::Duration took;            // Since the call was due.
  bool counts;                    // Neither of the warm-up nor after the end.
};

struct LoadOptions {
  std::string method;                      // "/package.Service/Method".
  std::vector<grpc::ByteBuffer> requests;  // Sent in turn; not empty.

  int concurrency = 1;  // Of a closed loop, >= 1.
  // Requests a second of an open loop; 0: a closed loop. The times between two
  // are exponential (Poisson arrivals) or all the same.
  double rate = 0;
  bool poisson = true;
  uint64_t seed = 1;  // Of the arrivals.

  absl::Duration warmup = absl::ZeroDuration();  // Before what counts.
  absl::Duration duration = absl::Seconds(10);   // Of what counts.
  absl::Duration deadline = absl::Minutes(1);    // Of each call, > 0.
  std::stop_token stop;                          // Ends the load early.

  // Sees every answer as it comes, on the thread of RunLoad. May be empty.
  std::function<void(const LoadAnswer&)> on_answer;
};

// Of the calls that ended after the warm-up and before the end. Times are in
// milliseconds, sorted, and run from when a call was due: a call that an open
// loop could not start in time has waited already.
struct LoadReport {
  double seconds = 0;
  std::vector<double> answered;                // OK.
  std::vector<double> refused;                 // RESOURCE_EXHAUSTED.
  std::map<absl::StatusCode, int64_t> errors;  // Calls by code, OK left out.
  // Arrivals of an open loop that were dropped, since 20,000 calls were open.
  int64_t unsent = 0;

  // OK, and OK within the deadline (goodput). A call that was due earlier or
  // ended later counts by the share of its time in between, so that batches
  // that end together at the window's edge make no difference.
  double answered_per_second = 0;
  double in_time_per_second = 0;
};

// The smallest of `sorted` that at least `fraction`, 0..1, of it do not exceed;
// 0 if it is empty.
double Percentile(const std::vector<double>& sorted, double fraction);

// Returns when every call it made has ended: after the window there may be
// another `deadline` to wait.
LoadReport RunLoad(const std::shared_ptr<grpc::Channel>& channel,
                   const LoadOptions& options);

}  // namespace finetune

#endif  // CLIENT_LOAD_LOAD_H_
