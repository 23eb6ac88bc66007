#include "client/load/requests.h"

#include <string>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

TEST(RequestsTest, PhotosAreReadInOrderAndOtherFilesLeft) {
  const TempDir dir;
  dir.Write("b/1.JPG", "first of b");
  dir.Write("a/2.png", "second of a");
  dir.Write("a/1.jpeg", "first of a");
  dir.Write("a/notes.txt", "no photo");
  const auto photos = ReadPhotos(dir.path());
  ASSERT_THAT(photos, IsOk());
  EXPECT_THAT(*photos, ElementsAre("first of a", "second of a", "first of b"));
}

TEST(RequestsTest, FolderWithoutPhotosIsRefused) {
  const TempDir dir;
  EXPECT_THAT(ReadPhotos(dir.path()),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ReadPhotos(dir.path() / "absent"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(RequestsTest, ClassifyIsOurOwnMessage) {
  v1::ModelRef model;
  model.set_name("pets");
  v1::ClassifyRequest request;
  ASSERT_TRUE(
      FromBytes(MakeRequest(Protocol::kClassify, "photo", model, 3), request));
  EXPECT_EQ(request.model().name(), "pets");
  EXPECT_THAT(request.images(), ElementsAre("photo"));
  EXPECT_EQ(request.top_k(), 3);
}

TEST(RequestsTest, PeersAndTheOpenProtocolGetTheirWireFormats) {
  const std::string photo(200, 'x');  // Two bytes of length.
  EXPECT_EQ(Bytes(MakeRequest(Protocol::kPeer, photo, v1::ModelRef(), 5)),
            "\x0a\xc8\x01" + photo + "\x10\x05");
  v1::ModelRef model;
  model.set_name("pets");
  model.set_version(2);
  EXPECT_EQ(Bytes(MakeRequest(Protocol::kInfer, photo, model, 5)),
            std::string("\x0a\x04pets\x12\x01") + "2" +
                "\x2a\x11\x0a\x05image\x12\x05" + "BYTES\x1a\x01\x01" +
                "\x3a\xcc\x01\xc8" + std::string(3, '\0') + photo);
}

}  // namespace
}  // namespace finetune
