// How gRPC parses our messages: a request's fields are counted on the wire
// before Protobuf makes objects of them, which can take 112 times its bytes.
// Every generated service header includes this (proto/CMakeLists.txt), so that
// all who parse a message agree on how, and no method can be forgotten. Raw
// methods, gRPC's other way to one's own parser, would each be written by hand.
//
// A message is a request if its type's name ends in "Request". Free functions;
// thread-safe.

#ifndef COMMON_REQUEST_PARSER_H_
#define COMMON_REQUEST_PARSER_H_

#include <concepts>
#include <type_traits>

#include "google/protobuf/message.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"

namespace finetune {

// Fields that a request may have: those at all depths, each entry of a list,
// each unknown one, and every byte of packed varints. Legal ones have little
// more than 10,000, as many as --max_images goes to. The costliest, an empty
// tensor, takes 224 bytes: 3.7 MB in all.
inline constexpr int kMaxRequestFields = 1 << 14;

// Parses `buffer` into `message`, and empties it. INVALID_ARGUMENT if a request
// has more fields than may be or is malformed; INTERNAL for other messages.
grpc::Status ParseMessage(grpc::ByteBuffer* buffer,
                          google::protobuf::Message* message);

// Why the request that this thread parsed last was refused, once; else OK.
// gRPC's callback handlers keep it from the caller: for an interceptor, which
// gRPC runs right after the parser.
grpc::Status TakeParseError();

}  // namespace finetune

namespace grpc {

// gRPC's own has the same arguments; the constraint makes this one preferred.
template <class T>
requires std::derived_from<T, google::protobuf::Message>
class SerializationTraits<
    T, typename std::enable_if<
           std::is_base_of<grpc::protobuf::MessageLite, T>::value>::type> {
 public:
  static Status Serialize(const grpc::protobuf::MessageLite& message,
                          ByteBuffer* buffer, bool* own_buffer) {
    return GenericSerialize<ProtoBufferWriter, T>(message, buffer, own_buffer);
  }

  static Status Deserialize(ByteBuffer* buffer, T* message) {
    return finetune::ParseMessage(buffer, message);
  }
};

}  // namespace grpc

#endif  // COMMON_REQUEST_PARSER_H_
