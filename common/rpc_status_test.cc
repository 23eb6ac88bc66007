#include "common/rpc_status.h"

#include <string>

#include "common/testing/status_matchers.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::StatusIs;

TEST(RpcStatusTest, DetailsSurviveTheWire) {
  const absl::Status status =
      FromRpcStatus(ToRpcStatus(InvalidFieldError("epochs", "1..1000")));

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(status.message(), "epochs must be 1..1000");
  google::rpc::BadRequest detail;
  ASSERT_TRUE(ToRpcStatus(status).details(0).UnpackTo(&detail));
  EXPECT_EQ(detail.field_violations(0).field(), "epochs");
}

TEST(RpcStatusTest, LongMessagesAreCut) {
  const auto wire = ToRpcStatus(absl::InternalError(std::string(5000, 'x')));
  EXPECT_EQ(wire.message().size(), 1024u);
}

TEST(RpcStatusTest, MessagesAreUtf8WhateverWasInThem) {
  const auto name = ToRpcStatus(absl::NotFoundError("open caf\xe9.jpg"));
  EXPECT_EQ(name.message(), "open caf\\xe9.jpg");
  std::string text = "x";
  for (int i = 0; i < 1000; ++i) text += "\xc3\xbc";  // Cut within a character.
  google::rpc::Status read;
  EXPECT_TRUE(read.ParseFromString(
      ToRpcStatus(absl::InternalError(text)).SerializeAsString()));
}

TEST(RpcStatusTest, RetryInfoHoldsTheDelay) {
  const auto wire = ToRpcStatus(
      RetryAfter(absl::UnavailableError("busy"), absl::Milliseconds(1500)));
  google::rpc::RetryInfo detail;
  ASSERT_TRUE(wire.details(0).UnpackTo(&detail));
  EXPECT_EQ(detail.retry_delay().seconds(), 1);
  EXPECT_EQ(detail.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(RetryDelayOf(FromRpcStatus(wire)), absl::Milliseconds(1500));
  EXPECT_EQ(RetryDelayOf(absl::UnavailableError("busy")), std::nullopt);
}

}  // namespace
}  // namespace finetune
