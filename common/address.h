// What a gRPC address says about who can reach it.

#ifndef COMMON_ADDRESS_H_
#define COMMON_ADDRESS_H_

#include "absl/strings/string_view.h"

namespace finetune {

// Whether only this machine's own processes can reach `address`: 127.0.0.0/8,
// ::1, `localhost`, with or without a port, or a unix: socket. A host name
// other than `localhost` is not looked up, and counts as reachable.
bool IsLoopbackAddress(absl::string_view address);

}  // namespace finetune

#endif  // COMMON_ADDRESS_H_
