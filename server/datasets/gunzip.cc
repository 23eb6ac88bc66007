#include "server/datasets/gunzip.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "zlib.h"

namespace finetune {
namespace {

constexpr absl::string_view kMagic = "\x1f\x8b";
constexpr size_t kBufferBytes = 256 << 10;
constexpr int kGzipWindowBits = 15 + 16;  // 16: a gzip header, not zlib's.

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the archive's gzip stream ", what));
}

}  // namespace

absl::Status RatioError(uint64_t max_ratio) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "the archive unpacks to more than ", max_ratio, " times its own size"));
}

Gunzip::Gunzip(ReadFn read, uint64_t max_ratio, uint64_t slack)
    : read_(std::move(read)), max_ratio_(max_ratio), slack_(slack) {}

Gunzip::~Gunzip() {
  if (compressed_) inflateEnd(stream_.get());
}

absl::StatusOr<absl::string_view> Gunzip::ReadSource() {
  ASSIGN_OR_RETURN(const absl::string_view bytes, read_());
  received_ += bytes.size();
  return bytes;
}

absl::Status Gunzip::Begin() {
  begun_ = true;
  while (start_.size() < kMagic.size()) {
    ASSIGN_OR_RETURN(const absl::string_view bytes, ReadSource());
    if (bytes.empty()) break;
    start_.append(bytes.data(), bytes.size());
  }
  if (!absl::StartsWith(start_, kMagic)) return absl::OkStatus();
  stream_ = std::make_unique<z_stream>();
  if (inflateInit2(stream_.get(), kGzipWindowBits) != Z_OK) {
    return absl::ResourceExhaustedError("no memory to decompress with");
  }
  compressed_ = in_member_ = true;
  buffer_.resize(kBufferBytes);
  stream_->next_in = reinterpret_cast<Bytef*>(start_.data());
  stream_->avail_in = static_cast<uInt>(start_.size());
  return absl::OkStatus();
}

absl::StatusOr<absl::string_view> Gunzip::Read() {
  if (!begun_) {
    RETURN_IF_ERROR(Begin());
    if (!compressed_) return absl::string_view(start_);
  }
  return compressed_ ? Inflate() : ReadSource();
}

absl::StatusOr<bool> Gunzip::Refill() {
  if (stream_->avail_in == 0) {
    ASSIGN_OR_RETURN(const absl::string_view bytes, ReadSource());
    // zlib does not write to its input.
    stream_->next_in =
        reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream_->avail_in = static_cast<uInt>(bytes.size());
  }
  if (stream_->avail_in == 0) {
    if (in_member_) return Broken("ends early");
    return false;
  }
  if (!in_member_) {
    if (*stream_->next_in != static_cast<uint8_t>(kMagic[0])) {
      stream_->avail_in = 0;  // Padding after the last member.
      return false;
    }
    inflateReset(stream_.get());
    in_member_ = true;
  }
  return true;
}

absl::StatusOr<absl::string_view> Gunzip::Inflate() {
  stream_->next_out = buffer_.data();
  stream_->avail_out = static_cast<uInt>(buffer_.size());
  while (stream_->avail_out == buffer_.size()) {
    ASSIGN_OR_RETURN(const bool more, Refill());
    if (!more) return absl::string_view();
    const int result = inflate(stream_.get(), Z_NO_FLUSH);
    if (result == Z_STREAM_END) {
      in_member_ = false;
    } else if (result == Z_MEM_ERROR) {
      return absl::ResourceExhaustedError("no memory to decompress with");
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      return Broken("is damaged");
    }
  }
  const size_t size = buffer_.size() - stream_->avail_out;
  produced_ += size;
  if (IsOverRatio(produced_)) return RatioError(max_ratio_);
  return absl::string_view(reinterpret_cast<const char*>(buffer_.data()), size);
}

}  // namespace finetune
