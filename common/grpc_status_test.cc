#include "common/grpc_status.h"

#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::IsOk;

TEST(GrpcStatusTest, CodeMessageAndDetailsComeBackEqual) {
  const absl::Status status = NoSuchResourceError("job", "ft-1");
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
}

TEST(GrpcStatusTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(GrpcStatusTest, StatusOfAPeerWithoutDetailsIsRead) {
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")),
            absl::UnavailableError("gone"));
}

}  // namespace
}  // namespace finetune
