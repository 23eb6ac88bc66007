#include "server/state/set_aside.h"

#include <algorithm>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "spdlog/spdlog.h"

namespace finetune {

namespace fs = std::filesystem;

absl::Status SetAside(const fs::path& path, const fs::path& state_dir,
                      absl::string_view why) {
  const fs::path folder = state_dir / "lost+found";
  RETURN_IF_ERROR(MakeFolders(folder));
  std::string name = path.lexically_relative(state_dir).native();
  std::replace(name.begin(), name.end(), '/', '-');
  fs::path to = folder / name;
  std::error_code ignored;
  for (int n = 1;
       fs::symlink_status(to, ignored).type() != fs::file_type::not_found;
       ++n) {
    to = folder / absl::StrCat(name, "-", n);
  }
  RETURN_IF_ERROR(RenameDurably(path, to));
  spdlog::warn("{}: {}; kept as {}", path.native(), std::string(why),
               to.native());
  return absl::OkStatus();
}

}  // namespace finetune
