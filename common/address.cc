#include "common/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace finetune {
namespace {

// "[::1]:80" -> "::1", "localhost:80" -> "localhost", "::1" -> "::1".
absl::string_view HostOf(absl::string_view address) {
  if (absl::StartsWith(address, "[")) {
    const size_t end = address.find(']');
    return end == absl::string_view::npos ? "" : address.substr(1, end - 1);
  }
  const bool has_port = std::count(address.begin(), address.end(), ':') == 1;
  return has_port ? address.substr(0, address.find(':')) : address;
}

// "80", of at most 65535, and without signs and spaces.
bool IsPort(absl::string_view text) {
  uint32_t port = 0;
  return !text.empty() &&
         std::all_of(
             text.begin(), text.end(),
             [](char c) {
               return absl::ascii_isdigit(static_cast<unsigned char>(c));
             }) &&
         absl::SimpleAtoi(text, &port) && port <= 65535;
}

// "[::1]", with or without a zone, "127.0.0.1" or "example.org".
bool IsHost(absl::string_view text) {
  if (absl::ConsumePrefix(&text, "[")) {
    if (!absl::ConsumeSuffix(&text, "]")) return false;
    in6_addr ignored;
    const std::string without_zone(text.substr(0, text.find('%')));
    return inet_pton(AF_INET6, without_zone.c_str(), &ignored) == 1;
  }
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
           c == '-' || c == '_';
  });
}

absl::Status CannotListen(absl::string_view address, absl::string_view reason) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address, ": ", reason));
}

// 0, or the errno that says why not. As gRPC, beside connections of an earlier
// server that are still ending.
int TryBind(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const int error = bind(fd, address, size) == 0 ? 0 : errno;
  close(fd);
  return error;
}

// As TryBind. gRPC takes the place of a socket that is there.
int TryBindUnix(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX};
  if (path.size() >= sizeof address.sun_path) return ENAMETOOLONG;
  struct stat info;
  if (lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) return 0;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int error =
      TryBind(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (error == 0) unlink(path.c_str());
  return error;
}

// One of a name's addresses is enough, as it is for gRPC.
absl::Status CheckCanBindHostPort(absl::string_view address) {
  const std::string host(HostOf(address));
  const std::string port(address.substr(address.rfind(':') + 1));
  const addrinfo hints{.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                       .ai_family = AF_UNSPEC,
                       .ai_socktype = SOCK_STREAM};
  // All addresses of the machine, for which gRPC takes IPv4 alone where the
  // system has no IPv6.
  const char* const node = host == "::" ? nullptr : host.c_str();
  addrinfo* found = nullptr;
  if (const int failed = getaddrinfo(node, port.c_str(), &hints, &found);
      failed != 0) {
    return CannotListen(address, gai_strerror(failed));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found,
                                                             freeaddrinfo);
  int error = 0;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    const int failed = TryBind(one->ai_addr, one->ai_addrlen);
    if (failed == 0) return absl::OkStatus();
    if (error == 0) error = failed;  // The preferred address's.
  }
  return CannotListen(address, strerror(error));
}

}  // namespace

absl::Status CheckHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon != absl::string_view::npos && IsHost(address.substr(0, colon)) &&
      IsPort(address.substr(colon + 1))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(address),
                   "\" is not HOST:PORT, with a host (IPv6 in brackets) and a "
                   "port from 0 to "
                   "65535"));
}

absl::Status CheckAddress(absl::string_view address) {
  absl::string_view name = address;
  const bool is_unix = absl::ConsumePrefix(&name, "unix:") ||
                       absl::ConsumePrefix(&name, "unix-abstract:");
  if (!is_unix) return CheckHostPort(address);
  if (!name.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("\"", address, "\" names no socket"));
}

absl::Status CheckCanBind(absl::string_view address) {
  if (absl::StartsWith(address, "unix-abstract:")) return absl::OkStatus();
  absl::string_view path = address;
  if (!absl::ConsumePrefix(&path, "unix:")) {
    return CheckCanBindHostPort(address);
  }
  absl::ConsumePrefix(&path, "//");
  const int error = TryBindUnix(std::string(path));
  if (error == 0) return absl::OkStatus();
  return CannotListen(address, strerror(error));
}

bool IsLoopbackAddress(absl::string_view address) {
  if (absl::StartsWith(address, "unix:") ||
      absl::StartsWith(address, "unix-abstract:")) {
    return true;
  }
  const std::string host(HostOf(address));
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == 127;
  }
  in6_addr v6;
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) ||
         (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace finetune
