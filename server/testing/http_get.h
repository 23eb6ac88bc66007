// A plain HTTP client for tests.

#ifndef SERVER_TESTING_HTTP_GET_H_
#define SERVER_TESTING_HTTP_GET_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace finetune::testing {

// The whole answer, headers included, to a GET of `path` from 127.0.0.1 at the
// port of `address`, HOST:PORT. Empty where nobody listens.
inline std::string HttpGet(const std::string& address,
                           const std::string& path) {
  sockaddr_in to{.sin_family = AF_INET};
  to.sin_port = htons(static_cast<uint16_t>(
      std::atoi(address.substr(address.rfind(':') + 1).c_str())));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  std::string answer;
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0 &&
      write(fd, request.data(), request.size()) > 0) {
    char bytes[4096];
    for (ssize_t n = 0; (n = read(fd, bytes, sizeof bytes)) > 0;) {
      answer.append(bytes, static_cast<size_t>(n));
    }
  }
  close(fd);
  return answer;
}

}  // namespace finetune::testing

#endif  // SERVER_TESTING_HTTP_GET_H_
