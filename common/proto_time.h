// absl::Duration as protobuf's.

#ifndef COMMON_PROTO_TIME_H_
#define COMMON_PROTO_TIME_H_

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/util/time_util.h"

namespace finetune {

inline google::protobuf::Duration ToProto(absl::Duration duration) {
  return google::protobuf::util::TimeUtil::NanosecondsToDuration(
      absl::ToInt64Nanoseconds(duration));
}

}  // namespace finetune

#endif  // COMMON_PROTO_TIME_H_
