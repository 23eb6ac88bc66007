#include "common/request_parser.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"

namespace finetune {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using WireFormat = google::protobuf::internal::WireFormatLite;

constexpr int kMaxDepth = 100;  // Protobuf's own.

thread_local grpc::Status last_error;

// Walks over a message without making anything of it. The functions return
// whether to go on: not if the bytes are malformed or hold too many fields.
class FieldCounter {
 public:
  explicit FieldCounter(google::protobuf::io::ZeroCopyInputStream& bytes)
      : in_(&bytes) {}

  bool CountMessage(const Descriptor& type, int depth = 0) {
    while (const uint32_t tag = in_.ReadTag()) {
      if (!CountField(tag, &type, depth)) return false;
    }
    return in_.ConsumedEntireMessage();
  }

  bool too_many() const { return fields_ > kMaxRequestFields; }

 private:
  // `type` is null in a group: our messages have none, so it is unknown.
  bool CountField(uint32_t tag, const Descriptor* type, int depth) {
    ++fields_;
    if (too_many() || depth > kMaxDepth) return false;
    const int number = WireFormat::GetTagFieldNumber(tag);
    uint64_t value = 0;
    switch (WireFormat::GetTagWireType(tag)) {
      case WireFormat::WIRETYPE_VARINT:
        return in_.ReadVarint64(&value);
      case WireFormat::WIRETYPE_FIXED64:
        return in_.Skip(sizeof(uint64_t));
      case WireFormat::WIRETYPE_FIXED32:
        return in_.Skip(sizeof(uint32_t));
      case WireFormat::WIRETYPE_LENGTH_DELIMITED:
        return CountBytes(type ? type->FindFieldByNumber(number) : nullptr,
                          depth);
      case WireFormat::WIRETYPE_START_GROUP:
        return CountGroup(number, depth + 1);
      default:
        return false;
    }
  }

  bool CountGroup(int number, int depth) {
    while (const uint32_t tag = in_.ReadTag()) {
      if (tag == WireFormat::MakeTag(number, WireFormat::WIRETYPE_END_GROUP)) {
        return true;
      }
      if (!CountField(tag, nullptr, depth)) return false;
    }
    return false;
  }

  bool CountBytes(const FieldDescriptor* field, int depth) {
    int length = 0;
    if (!in_.ReadVarintSizeAsInt(&length)) return false;
    if (field == nullptr) return in_.Skip(length);
    if (field->message_type() != nullptr) {
      const auto limit = in_.PushLimit(length);
      const bool counted = CountMessage(*field->message_type(), depth + 1);
      in_.PopLimit(limit);
      return counted;
    }
    if (field->is_packable() && IsVarint(*field)) fields_ += length;
    return !too_many() && in_.Skip(length);
  }

  static bool IsVarint(const FieldDescriptor& field) {
    return WireFormat::WireTypeForFieldType(static_cast<WireFormat::FieldType>(
               field.type())) == WireFormat::WIRETYPE_VARINT;
  }

  google::protobuf::io::CodedInputStream in_;
  int64_t fields_ = 0;
};

absl::Status MalformedError(const Descriptor& type) {
  return absl::InvalidArgumentError(
      absl::StrCat("the request is no ", type.full_name()));
}

// As gRPC itself does.
grpc::Status Parse(grpc::ByteBuffer* buffer,
                   google::protobuf::Message* message) {
  return grpc::GenericDeserialize<grpc::ProtoBufferReader,
                                  google::protobuf::Message>(buffer, message);
}

absl::Status CheckFields(grpc::ByteBuffer* buffer, const Descriptor& type) {
  grpc::ProtoBufferReader bytes(buffer);
  FieldCounter counter(bytes);
  if (bytes.status().ok() && counter.CountMessage(type)) {
    return absl::OkStatus();
  }
  if (!counter.too_many()) return MalformedError(type);
  return absl::InvalidArgumentError(
      absl::StrCat("the request must have at most ", kMaxRequestFields,
                   " fields and entries of lists, nested ones included"));
}

absl::Status ParseRequest(grpc::ByteBuffer* buffer,
                          google::protobuf::Message* message) {
  const Descriptor& type = *message->GetDescriptor();
  absl::Status checked = CheckFields(buffer, type);
  if (!checked.ok()) {
    buffer->Clear();
    return checked;
  }
  return Parse(buffer, message).ok() ? absl::OkStatus() : MalformedError(type);
}

}  // namespace

grpc::Status ParseMessage(grpc::ByteBuffer* buffer,
                          google::protobuf::Message* message) {
  if (!absl::EndsWith(message->GetDescriptor()->name(), "Request")) {
    return Parse(buffer, message);
  }
  last_error = ToGrpcStatus(ParseRequest(buffer, message));
  return last_error;
}

grpc::Status TakeParseError() {
  return std::exchange(last_error, grpc::Status::OK);
}

}  // namespace finetune
