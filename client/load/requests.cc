#include "client/load/requests.h"

#include <algorithm>
#include <system_error>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "client/image_list.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "finetune/v1/inference_service.pb.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"
#include "inference/open_inference.pb.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxPhotos = 256;
constexpr uint64_t kMaxPhotoBytes = 16 << 20;

// Protobuf's wire format, for the peers' message, which has no .proto.
void AppendVarint(uint64_t value, std::string& out) {
  for (; value >= 128; value >>= 7) {
    out.push_back(static_cast<char>(value | 128));
  }
  out.push_back(static_cast<char>(value));
}

void AppendNumber(int field, uint64_t value, std::string& out) {
  AppendVarint(static_cast<uint64_t>(field) << 3, out);
  AppendVarint(value, out);
}

void AppendBytes(int field, absl::string_view content, std::string& out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | 2, out);
  AppendVarint(content.size(), out);
  out.append(content.data(), content.size());
}

// One BYTES tensor of shape [1], in the raw contents.
inference::ModelInferRequest InferRequest(absl::string_view photo,
                                          const v1::ModelRef& model) {
  inference::ModelInferRequest request;
  request.set_model_name(model.name());
  if (model.version() > 0) {
    request.set_model_version(absl::StrCat(model.version()));
  }
  auto& tensor = *request.add_inputs();
  tensor.set_name("image");
  tensor.set_datatype("BYTES");
  tensor.add_shape(1);
  std::string& raw = *request.add_raw_input_contents();
  for (int shift = 0; shift < 32; shift += 8) {
    raw.push_back(static_cast<char>(photo.size() >> shift));
  }
  raw.append(photo.data(), photo.size());
  return request;
}

std::string PeerRequest(absl::string_view photo, int top_k) {
  std::string request;
  AppendBytes(1, photo, request);
  AppendNumber(2, static_cast<uint64_t>(top_k), request);
  return request;
}

}  // namespace

std::string MethodOf(Protocol protocol) {
  switch (protocol) {
    case Protocol::kClassify:
      return "/finetune.v1.InferenceService/Classify";
    case Protocol::kInfer:
      return "/inference.GRPCInferenceService/ModelInfer";
    case Protocol::kPeer:
      return "/peers.Classifier/Classify";
  }
  return "";
}

absl::StatusOr<std::vector<std::string>> ReadPhotos(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::recursive_directory_iterator next(folder, error), end;
       !error && next != end; next.increment(error)) {
    if (IsImageName(next->path())) paths.push_back(next->path());
  }
  if (paths.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no photos (.jpg, .jpeg, .png, .webp, .bmp) in ",
                     folder.native(), error ? ": " + error.message() : ""));
  }
  absl::c_sort(paths);
  paths.resize(std::min(paths.size(), kMaxPhotos));
  std::vector<std::string> photos;
  for (const fs::path& path : paths) {
    ASSIGN_OR_RETURN(photos.emplace_back(), ReadFile(path, kMaxPhotoBytes));
  }
  return photos;
}

grpc::ByteBuffer MakeRequest(Protocol protocol, absl::string_view photo,
                             const v1::ModelRef& model, int top_k) {
  if (protocol == Protocol::kClassify) {
    v1::ClassifyRequest request;
    if (!model.name().empty()) *request.mutable_model() = model;
    request.add_images(photo.data(), photo.size());
    request.set_top_k(top_k);
    return ToBytes(request);
  }
  if (protocol == Protocol::kInfer) return ToBytes(InferRequest(photo, model));
  const grpc::Slice slice(PeerRequest(photo, top_k));
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer ToBytes(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

bool FromBytes(const grpc::ByteBuffer& bytes,
               google::protobuf::MessageLite& message) {
  grpc::ByteBuffer shared(bytes);  // The reader wants one it may change.
  grpc::ProtoBufferReader reader(&shared);
  return reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
}

}  // namespace finetune
