#include "server/service/create_token_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "openssl/rand.h"

namespace finetune {
namespace {

constexpr int kTokenBytes = 32;

absl::Status Failed(absl::string_view verb, const std::filesystem::path& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("--create_token_file: cannot ",
                                                 verb, " ", path.native()));
}

absl::StatusOr<std::string> NewToken() {
  std::string bytes(kTokenBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kTokenBytes) !=
      1) {
    return absl::InternalError("the system gives no random numbers");
  }
  return absl::BytesToHexString(bytes);
}

// Whether `content` became the file `path`; not if there is something already.
// A link instead of a renaming, which would replace what is there.
absl::StatusOr<bool> WriteNewFile(const std::filesystem::path& path,
                                  absl::string_view content) {
  std::string temporary = path.native() + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);  // Mode 0600.
  if (fd < 0) return Failed("create a file beside", path);
  const absl::Cleanup removing = [&temporary] { unlink(temporary.c_str()); };
  absl::Status written = WriteAll(fd, content, temporary);
  if (written.ok() && fsync(fd) != 0) written = Failed("sync", temporary);
  close(fd);
  RETURN_IF_ERROR(written);
  if (link(temporary.c_str(), path.c_str()) == 0) return true;
  if (errno == EEXIST) return false;
  return Failed("create", path);
}

}  // namespace

absl::StatusOr<std::string> CreateTokenFile(const std::filesystem::path& path) {
  if (path.empty()) {
    return absl::InvalidArgumentError(
        "--create_token_file needs --token_file, the file to create");
  }
  struct stat ignored;
  if (lstat(path.c_str(), &ignored) == 0) return std::string();
  if (errno != ENOENT) return Failed("look at", path);
  ASSIGN_OR_RETURN(std::string token, NewToken());
  ASSIGN_OR_RETURN(const bool is_new,
                   WriteNewFile(path, absl::StrCat("admin ", token, "\n")));
  if (!is_new) token.clear();
  return token;
}

}  // namespace finetune
