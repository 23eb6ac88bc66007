#include "server/service/authorizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/token.h"
#include "openssl/crypto.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;
constexpr absl::Duration kLookInterval = absl::Seconds(1);

// The token that came with a call.
absl::StatusOr<std::string> TokenOf(const grpc::ServerContextBase& context) {
  const auto [first, end] = context.client_metadata().equal_range(kTokenHeader);
  if (first == end) {
    return absl::UnauthenticatedError(
        "this server asks for a token: send the metadata \"authorization: "
        "Bearer TOKEN\"; the client takes it from --token-file");
  }
  absl::string_view value(first->second.data(), first->second.size());
  if (std::next(first) != end ||
      !absl::StartsWithIgnoreCase(value, kTokenScheme) ||
      !IsToken(value.substr(sizeof(kTokenScheme) - 1))) {
    return absl::UnauthenticatedError(
        absl::StrCat("the metadata must hold \"authorization: Bearer TOKEN\" "
                     "once; a token is ",
                     kTokenForm));
  }
  return std::string(value.substr(sizeof(kTokenScheme) - 1));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Authorizer>> Authorizer::Open(
    const std::filesystem::path& token_file, std::function<absl::Time()> now) {
  auto authorizer =
      std::unique_ptr<Authorizer>(new Authorizer(token_file, std::move(now)));
  const MutexLock lock(authorizer->mu_);
  authorizer->version_ = VersionOf(token_file);
  ASSIGN_OR_RETURN(Tokens tokens, authorizer->Load());
  authorizer->tokens_ = std::make_shared<const Tokens>(std::move(tokens));
  authorizer->next_look_ = authorizer->now_() + kLookInterval;
  return authorizer;
}

Authorizer::Version Authorizer::VersionOf(const std::filesystem::path& file) {
  struct stat s;
  if (stat(file.c_str(), &s) != 0) return {};
  return {static_cast<int64_t>(s.st_dev), static_cast<int64_t>(s.st_ino),
          s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
}

absl::StatusOr<Authorizer::Tokens> Authorizer::Load() const {
  ASSIGN_OR_RETURN(const std::string content,
                   ReadFile(token_file_, kMaxFileBytes));
  const auto lines = ParseTokenFile(content);
  if (!lines.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token file ", token_file_.native(), ": ", lines.status().message()));
  }
  struct stat s;
  if (stat(token_file_.c_str(), &s) == 0 && (s.st_mode & S_IROTH) != 0) {
    spdlog::warn(
        "token file {}: every user of this machine may read it; "
        "chmod o-r",
        token_file_.native());
  }
  Tokens tokens;
  for (const RoleToken& line : *lines) {
    tokens.push_back({Sha256Hex(line.token), line.role});
  }
  return tokens;
}

std::shared_ptr<const Authorizer::Tokens> Authorizer::Current() const {
  Version last;
  {
    const MutexLock lock(mu_);
    if (looking_ || now_() < next_look_) return tokens_;
    looking_ = true;  // Others go on with what there is.
    last = version_;
  }
  const Version version = VersionOf(token_file_);
  absl::StatusOr<Tokens> tokens = absl::UnknownError("unchanged");
  if (version != last) {
    tokens = Load();
    if (tokens.ok()) {
      spdlog::info("token file {}: read again", token_file_.native());
    } else {
      spdlog::error("{}; the tokens stay as they were",
                    tokens.status().ToString());
    }
  }
  const MutexLock lock(mu_);
  if (tokens.ok()) tokens_ = std::make_shared<const Tokens>(*std::move(tokens));
  version_ = version;
  next_look_ = now_() + kLookInterval;
  looking_ = false;
  return tokens_;
}

absl::Status Authorizer::Check(const grpc::ServerContextBase& context,
                               Role needed) const {
  if (token_file_.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string token, TokenOf(context));
  const std::string digest = Sha256Hex(token);
  Role role = Role::kNone;
  // All of them, so that the time says nothing about which one it was.
  for (const Token& known : *Current()) {
    const bool same =
        CRYPTO_memcmp(known.digest.data(), digest.data(), digest.size()) == 0;
    role = std::max(role, same ? known.role : Role::kNone);
  }
  if (role == Role::kNone) {
    return absl::UnauthenticatedError("this server does not know that token");
  }
  if (role < needed) {
    return absl::PermissionDeniedError(
        "that token may only classify; this call needs one of role admin");
  }
  return absl::OkStatus();
}

}  // namespace finetune
