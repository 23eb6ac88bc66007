#include "client/load/server_times.h"

#include "client/load/requests.h"
#include "common/proto_time.h"
#include "finetune/v1/inference_service.pb.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

grpc::ByteBuffer Answer(int queue_ms, int preprocess_ms, int compute_ms,
                        int batch_size) {
  v1::ClassifyResponse response;
  v1::ServerTiming& timing = *response.mutable_timing();
  *timing.mutable_queue() = ToProto(absl::Milliseconds(queue_ms));
  *timing.mutable_preprocess() = ToProto(absl::Milliseconds(preprocess_ms));
  *timing.mutable_compute() = ToProto(absl::Milliseconds(compute_ms));
  timing.set_batch_size(batch_size);
  return ToBytes(response);
}

TEST(ServerTimesTest, AreMeansAndOverheadIsWhatIsNotWork) {
  ServerTimes times;
  times.Add(Answer(1, 2, 10, 1), absl::Milliseconds(14));
  times.Add(Answer(3, 4, 20, 4), absl::Milliseconds(34));
  times.Add(Answer(5, 6, 30, 4), absl::Milliseconds(43));
  EXPECT_EQ(times.count(), 3);
  EXPECT_DOUBLE_EQ(times.MeanQueue(), 3);
  EXPECT_DOUBLE_EQ(times.MeanPreprocess(), 4);
  EXPECT_DOUBLE_EQ(times.MeanCompute(), 20);
  EXPECT_DOUBLE_EQ(times.MeanBatchSize(), 3);
  EXPECT_DOUBLE_EQ(times.MedianOverhead(), 7);  // Of 2, 10 and 7.
}

TEST(ServerTimesTest, AnswersWithoutTimesAreIgnored) {
  ServerTimes times;
  const grpc::Slice noise("\xff\xff\xff");
  times.Add(grpc::ByteBuffer(&noise, 1), absl::Milliseconds(1));
  times.Add(ToBytes(v1::ClassifyResponse()), absl::Milliseconds(1));
  EXPECT_EQ(times.count(), 0);
}

}  // namespace
}  // namespace finetune
