// The requests of a load: encoded photos in the messages of the protocols that
// image classifiers are asked by.

#ifndef CLIENT_LOAD_REQUESTS_H_
#define CLIENT_LOAD_REQUESTS_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "finetune/v1/model.pb.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"

namespace finetune {

enum class Protocol {
  kClassify,  // Ours: finetune.v1.InferenceService/Classify.
  kInfer,     // The Open Inference Protocol v2, as KServe and Triton have it.
  kPeer,      // peers.Classifier/Classify, of the servers in scripts/bench:
              // message { bytes image = 1; int32 top_k = 2; }.
};

// "/package.Service/Method".
std::string MethodOf(Protocol protocol);

// The bytes of the photos (JPEG, PNG, WebP, BMP, by their names) in `folder`
// and below it, sorted by path: the first 256 of at most 16 MiB each.
//
// INVALID_ARGUMENT if there is none or one is larger; what ReadFile gives.
absl::StatusOr<std::vector<std::string>> ReadPhotos(
    const std::filesystem::path& folder);

// A request for one photo. `model` is not sent to a peer, which has only one;
// `top_k` not in kInfer, which asks for all.
grpc::ByteBuffer MakeRequest(Protocol protocol, absl::string_view photo,
                             const v1::ModelRef& model, int top_k);

// The message's bytes, and back: whether `bytes` held one.
grpc::ByteBuffer ToBytes(const google::protobuf::MessageLite& message);
bool FromBytes(const grpc::ByteBuffer& bytes,
               google::protobuf::MessageLite& message);

}  // namespace finetune

#endif  // CLIENT_LOAD_REQUESTS_H_
