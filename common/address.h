// What a gRPC address says, who can reach it, and whether it can be had.

#ifndef COMMON_ADDRESS_H_
#define COMMON_ADDRESS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace finetune {

// Whether only this machine's own processes can reach `address`: 127.0.0.0/8,
// ::1, `localhost`, with or without a port, or a unix: socket. A host name
// other than `localhost` is not looked up, and counts as reachable.
bool IsLoopbackAddress(absl::string_view address);

// INVALID_ARGUMENT, in one line, unless `address` is HOST:PORT: a name, an IPv4
// address or an IPv6 address in brackets, and a port from 0 to 65535 in digits.
absl::Status CheckHostPort(absl::string_view address);

// The same, where unix:PATH and unix-abstract:NAME are good, too.
absl::Status CheckAddress(absl::string_view address);

// Whether a server could listen on `address` now: binds a socket to it as gRPC
// does, and closes it. UNAVAILABLE "cannot listen on ...: " and the system's
// reason. Another process may still come first.
//
// REQUIRES: CheckAddress(address) is OK.
absl::Status CheckCanBind(absl::string_view address);

}  // namespace finetune

#endif  // COMMON_ADDRESS_H_
