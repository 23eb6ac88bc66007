// What finetuned says of where its time went, over many answers.

#ifndef CLIENT_LOAD_SERVER_TIMES_H_
#define CLIENT_LOAD_SERVER_TIMES_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/support/byte_buffer.h"

namespace finetune {

// Not thread-safe. All times are in milliseconds.
class ServerTimes {
 public:
  // Adds the timing in the bytes of a ClassifyResponse, which came `took` after
  // its request was due. Ignored if they are none, or without a timing.
  void Add(const grpc::ByteBuffer& answer, absl::Duration took);

  // The rest is of at least one answer.
  int64_t count() const { return static_cast<int64_t>(overheads_.size()); }
  double MeanQueue() const { return Mean(queue_); }
  double MeanPreprocess() const { return Mean(preprocess_); }
  double MeanCompute() const { return Mean(compute_); }
  double MeanBatchSize() const { return Mean(batch_size_); }

  // Of what an answer took beyond preprocess and compute: the wire, gRPC on
  // both sides, our own handling of the request, and its waiting.
  double MedianOverhead() const;

 private:
  double Mean(double sum) const { return sum / static_cast<double>(count()); }

  double queue_ = 0, preprocess_ = 0, compute_ = 0, batch_size_ = 0;  // Sums.
  std::vector<double> overheads_;
};

}  // namespace finetune

#endif  // CLIENT_LOAD_SERVER_TIMES_H_
