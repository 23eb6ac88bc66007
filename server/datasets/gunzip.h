// gzip, decompressed as it streams by.
//
// Not libarchive's own filter, which keeps header fields of any length in
// memory and takes gzip within gzip to any depth: here memory is constant, and
// only one layer is undone.

#ifndef SERVER_DATASETS_GUNZIP_H_
#define SERVER_DATASETS_GUNZIP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct z_stream_s;

namespace finetune {

// The next bytes of a stream, at most 1 GiB; empty at its end, and from then
// on. They are valid until the next call. May block.
using ReadFn = std::function<absl::StatusOr<absl::string_view>()>;

// Not thread-safe.
class Gunzip {
 public:
  // Fails where more than `max_ratio` x the bytes received + `slack` come out.
  Gunzip(ReadFn read, uint64_t max_ratio, uint64_t slack);
  ~Gunzip();
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  // As ReadFn. A stream that does not begin as gzip comes out as it is; what
  // follows the last gzip member is ignored.
  //
  // INVALID_ARGUMENT if the stream is damaged or ends early; RESOURCE_EXHAUSTED
  // over the ratio; or the source's error.
  absl::StatusOr<absl::string_view> Read();

  // What the source has given.
  uint64_t received() const { return received_; }

  // Whether `unpacked` bytes from the stream so far would be over the ratio.
  bool IsOverRatio(uint64_t unpacked) const {
    return unpacked > slack_ && (unpacked - slack_) / max_ratio_ > received_;
  }

 private:
  absl::StatusOr<absl::string_view> ReadSource();
  absl::Status Begin();
  absl::StatusOr<absl::string_view> Inflate();
  // Whether there is input for another call of inflate.
  absl::StatusOr<bool> Refill();

  const ReadFn read_;
  const uint64_t max_ratio_;
  const uint64_t slack_;
  bool begun_ = false;
  bool compressed_ = false;
  bool in_member_ = false;
  std::string start_;  // The first bytes, by which gzip is known.
  uint64_t received_ = 0;
  uint64_t produced_ = 0;
  std::unique_ptr<z_stream_s> stream_;
  std::vector<uint8_t> buffer_;
};

// RESOURCE_EXHAUSTED: more than `max_ratio` times the bytes that came.
absl::Status RatioError(uint64_t max_ratio);

}  // namespace finetune

#endif  // SERVER_DATASETS_GUNZIP_H_
