#include "client/load/server_times.h"

#include <algorithm>

#include "client/load/load.h"
#include "client/load/requests.h"
#include "common/proto_time.h"
#include "finetune/v1/inference_service.pb.h"

namespace finetune {

void ServerTimes::Add(const grpc::ByteBuffer& answer, absl::Duration took) {
  v1::ClassifyResponse response;
  if (!FromBytes(answer, response) || !response.has_timing()) return;
  const v1::ServerTiming& timing = response.timing();
  const double queue = absl::ToDoubleMilliseconds(FromProto(timing.queue()));
  const double preprocess =
      absl::ToDoubleMilliseconds(FromProto(timing.preprocess()));
  const double compute =
      absl::ToDoubleMilliseconds(FromProto(timing.compute()));
  queue_ += queue;
  preprocess_ += preprocess;
  compute_ += compute;
  batch_size_ += timing.batch_size();
  overheads_.push_back(absl::ToDoubleMilliseconds(took) - preprocess - compute);
}

double ServerTimes::MedianOverhead() const {
  std::vector<double> sorted = overheads_;
  std::sort(sorted.begin(), sorted.end());
  return Percentile(sorted, 0.5);
}

}  // namespace finetune
