#include "server/testing/soak_server.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/load/requests.h"
#include "common/file.h"
#include "common/grpc_status.h"
#include "common/testing/status_matchers.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/testing/pictures.h"
#include "server/testing/random_model.h"

namespace finetune::testing {
namespace {

// The forward pass of a larger batch adds in another order: the last bits
// differ. Other versions and other pictures are further away than kApart.
constexpr float kEqual = 1e-4f, kApart = 1e-3f;

float Distance(const std::map<int, float>& a, const std::map<int, float>& b) {
  if (a.size() != b.size()) return 1;
  float largest = 0;
  for (const auto& [index, probability] : a) {
    const auto other = b.find(index);
    if (other == b.end()) return 1;
    largest = std::max(largest, std::abs(probability - other->second));
  }
  return largest;
}

std::map<int, float> ToMap(const v1::ClassifyResult& result) {
  std::map<int, float> probabilities;
  for (const v1::ClassScore& score : result.scores()) {
    probabilities[score.class_index()] = score.probability();
  }
  return probabilities;
}

}  // namespace

SoakServer::SoakServer() {
  for (const char* name : {"landscape_420.jpg", "rgb.png", "lossy.webp",
                           "rgb24.bmp", "portrait_444.jpg", "small_420.jpg"}) {
    pictures_.push_back(Image(name));
  }
  for (const int64_t version : {1, 2}) {
    EXPECT_THAT(WriteRandomModel(dir_.path() / "state/models", kModel, version),
                IsOk());
  }
  const std::string log = dir_.path() / "server.log";
  process_ = std::make_unique<ServerProcess>(
      std::vector<std::string>{
          FINETUNE_SERVER_BINARY, "--address", "127.0.0.1:0", "--state_dir",
          dir_.path() / "state", "--data_root", dir_.path(), "--device", "cpu"},
      std::vector<std::string>(), log);
  EXPECT_NE(process_->channel(), nullptr) << *ReadFile(log, 1 << 20);
  if (process_->channel() != nullptr) AskAll();
}

void SoakServer::AskAll() {
  for (size_t picture = 0; picture < pictures_.size(); ++picture) {
    for (const int64_t version : {1, 2}) {
      Probabilities answer = Ask(picture, version);
      for (const auto& [asked, other] : references_) {
        EXPECT_GT(Distance(answer, other), kApart)
            << "picture " << picture << " version " << version
            << " looks like picture " << asked.first << " version "
            << asked.second;
      }
      references_[{picture, version}] = std::move(answer);
    }
  }
}

SoakServer::Probabilities SoakServer::Ask(size_t picture, int64_t version) {
  v1::ClassifyRequest request;
  request.mutable_model()->set_name(kModel);
  request.mutable_model()->set_version(version);
  request.add_images(pictures_[picture]);
  v1::ClassifyResponse response;
  grpc::ClientContext context;
  EXPECT_THAT(FromGrpcStatus(v1::InferenceService::NewStub(process_->channel())
                                 ->Classify(&context, request, &response)),
              IsOk());
  return response.results_size() == 1 ? ToMap(response.results(0))
                                      : Probabilities();
}

SoakRequest SoakServer::Make(const std::vector<size_t>& pictures,
                             int64_t version) const {
  v1::ClassifyRequest request;
  if (version > 0) {
    request.mutable_model()->set_name(kModel);
    request.mutable_model()->set_version(version);
  }
  for (const size_t picture : pictures) request.add_images(pictures_[picture]);
  return {ToBytes(request), pictures, version};
}

std::vector<SoakRequest> SoakServer::SmallRequests() const {
  std::vector<SoakRequest> requests;
  for (size_t picture = 0; picture < pictures_.size(); ++picture) {
    requests.push_back(Make({picture}, 0));
  }
  return requests;
}

std::vector<SoakRequest> SoakServer::MixedRequests(
    const std::vector<int64_t>& versions) const {
  std::vector<SoakRequest> requests;
  for (const int64_t version : versions) {
    for (const std::vector<size_t>& pictures :
         {std::vector<size_t>{0}, {4}, {3, 1, 2}, {5}, {5, 4, 3, 2, 1}}) {
      requests.push_back(Make(pictures, version));
    }
  }
  return requests;
}

std::string SoakServer::FindFault(const SoakRequest& request,
                                  const grpc::ByteBuffer& answer) const {
  v1::ClassifyResponse response;
  if (!FromBytes(answer, response)) return "no ClassifyResponse";
  const int64_t version = response.model().version();
  if (response.model().name() != kModel || version < 1 || version > 2 ||
      (request.version > 0 && version != request.version)) {
    return absl::StrCat("answered by ", response.model().ShortDebugString());
  }
  if (response.results_size() != static_cast<int>(request.pictures.size())) {
    return absl::StrCat(response.results_size(), " results for ",
                        request.pictures.size(), " images");
  }
  for (int i = 0; i < response.results_size(); ++i) {
    const float distance =
        Distance(ToMap(response.results(i)),
                 references_.at({request.pictures[i], version}));
    if (distance > kEqual) {
      return absl::StrCat("picture ", request.pictures[i], ", image ", i,
                          " of ", response.results_size(), ", version ",
                          version, ": a probability is off by ", distance);
    }
  }
  return "";
}

}  // namespace finetune::testing
