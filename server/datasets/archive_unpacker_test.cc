#include "server/datasets/archive_unpacker.h"

#include <sys/stat.h>

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/datasets/testing/test_archive.h"

namespace finetune {
namespace {

using ::testing::AllOf;
using testing::ArchiveFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::IsOk;
using testing::MakeArchive;
using ::testing::Pair;
using testing::StatusIs;
using testing::TempDir;
using testing::TestEntry;

constexpr ArchiveFormat kFormats[] = {
    ArchiveFormat::kTar, ArchiveFormat::kPaxTar, ArchiveFormat::kTarGz,
    ArchiveFormat::kZip, ArchiveFormat::kStoredZip};

// `bytes` in pieces of `piece`; each at its own place in memory, so that
// AddressSanitizer sees one that is used for too long.
ReadFn Pieces(std::string bytes, size_t piece) {
  return [bytes = std::move(bytes), piece, at = size_t{0},
          now = std::string()]() mutable -> absl::StatusOr<absl::string_view> {
    now = std::string(bytes, std::min(at, bytes.size()), piece);
    now.shrink_to_fit();
    at += now.size();
    return absl::string_view(now);
  };
}

// Content by path; folders end with '/'.
std::map<std::string, std::string> TreeOf(const std::filesystem::path& dir) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    const std::string name = entry.path().lexically_relative(dir);
    EXPECT_FALSE(entry.is_symlink()) << name;
    if (entry.is_directory()) {
      tree[name + "/"] = "";
    } else {
      tree[name] = *ReadFile(entry.path(), 100 << 20);
    }
  }
  return tree;
}

class ArchiveUnpackerTest : public ::testing::Test {
 protected:
  absl::StatusOr<UnpackResult> Unpack(const std::string& bytes,
                                      size_t piece = 4096) {
    const std::filesystem::path dir =
        dir_.path() / absl::StrCat(++unpacked_) / "in";
    std::filesystem::create_directories(dir);
    last_ = dir;
    return UnpackArchive(Pieces(bytes, piece), dir, limits_);
  }
  // The error of unpacking a tar with just this entry in it.
  absl::Status Refusal(const TestEntry& entry,
                       ArchiveFormat format = ArchiveFormat::kTar) {
    return Unpack(MakeArchive({entry}, format)).status();
  }

  const TempDir dir_;
  UnpackLimits limits_;
  std::filesystem::path last_;
  int unpacked_ = 0;
};

TEST_F(ArchiveUnpackerTest, EveryFormatGivesTheSameFilesInAnyPieces) {
  const std::string large(300'000, 'x');
  for (const ArchiveFormat format : kFormats) {
    const std::string bytes = MakeArchive(
        {{"train/bee/1.jpg", "bee"}, {"empty", ""}, {"large", large}}, format);
    for (const size_t piece : {1u, 511u, 1u << 20}) {
      const auto result = Unpack(bytes, piece);
      ASSERT_THAT(result, IsOk()) << static_cast<int>(format);
      EXPECT_EQ(result->files, 3);
      EXPECT_EQ(result->bytes, 300'003);
      EXPECT_THAT(TreeOf(last_),
                  ElementsAre(Pair("empty", ""), Pair("large", large),
                              Pair("train/", ""), Pair("train/bee/", ""),
                              Pair("train/bee/1.jpg", "bee")));
    }
  }
}

TEST_F(ArchiveUnpackerTest, NamesThatAreNotAsciiSurvive) {
  for (const ArchiveFormat format : kFormats) {
    // The writer marks names as UTF-8 only where it is told them as such.
    const auto result =
        Unpack(MakeArchive({{"x", "bee"}}, format, [](archive_entry* entry) {
          archive_entry_copy_pathname(entry, "train/Käfer/été.jpg");
        }));
    ASSERT_THAT(result, IsOk()) << static_cast<int>(format);
    EXPECT_THAT(TreeOf(last_),
                ElementsAre(Pair("train/", ""), Pair("train/Käfer/", ""),
                            Pair("train/Käfer/été.jpg", "bee")))
        << static_cast<int>(format);
  }
}

TEST_F(ArchiveUnpackerTest, ModesAreOurs) {
  ASSERT_THAT(Unpack(MakeArchive({{"a/b", "c"}})), IsOk());
  struct stat info;
  ASSERT_EQ(stat((last_ / "a/b").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777 & ~0644u, 0u);
  ASSERT_EQ(stat((last_ / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777 & ~0755u, 0u);
}

TEST_F(ArchiveUnpackerTest, DotsAndDoubledSlashesDoNotMatter) {
  ASSERT_THAT(
      Unpack(MakeArchive(
          {{"./", "", AE_IFDIR}, {".//a/./b", "c"}, {"a/", "", AE_IFDIR}})),
      IsOk());
  EXPECT_THAT(TreeOf(last_), ElementsAre(Pair("a/", ""), Pair("a/b", "c")));
}

TEST_F(ArchiveUnpackerTest, NothingLeavesTheFolder) {
  for (const char* path : {"../evil", "a/../../evil", "a/..", "/evil", "//evil",
                           "..\\evil", "C:\\evil", "a/b\\..\\c"}) {
    EXPECT_THAT(Refusal({path, "x"}),
                AllOf(StatusIs(absl::StatusCode::kInvalidArgument)))
        << path;
    EXPECT_THAT(TreeOf(last_), IsEmpty()) << path;
    EXPECT_FALSE(std::filesystem::exists(last_ / "../evil")) << path;
  }
  EXPECT_THAT(Refusal({"../evil", "x"}).message(), HasSubstr("\"../evil\""));
}

TEST_F(ArchiveUnpackerTest, LinksAndDevicesAreRefused) {
  EXPECT_THAT(Refusal({"link", "", AE_IFLNK, "/etc"}).message(),
              HasSubstr("\"link\" is a link"));
  EXPECT_THAT(Unpack(MakeArchive({{"a", "x"}, {"hard", "", AE_IFREG, "a"}}))
                  .status()
                  .message(),
              HasSubstr("\"hard\" is a link"));
  for (const unsigned int type : {AE_IFIFO, AE_IFCHR, AE_IFBLK}) {
    EXPECT_THAT(Refusal({"node", "", type}).message(),
                HasSubstr("\"node\" is a device or a pipe"));
  }
}

TEST_F(ArchiveUnpackerTest, LinkInAZipIsAFileAndIsNotFollowed) {
  const auto result = Unpack(
      MakeArchive({{"link", "", AE_IFLNK, "/etc"}}, ArchiveFormat::kZip));
  if (result.ok()) {
    EXPECT_THAT(TreeOf(last_), ElementsAre(Pair("link", "/etc")));
  } else {
    EXPECT_THAT(result.status().message(), HasSubstr("is a link"));
  }
}

TEST_F(ArchiveUnpackerTest, EntryThatComesTwiceIsRefused) {
  for (const auto& twice :
       std::vector<std::vector<TestEntry>>{{{"a", "1"}, {"a", "2"}},
                                           {{"a", "1"}, {"./a", "2"}},
                                           {{"a/b", "1"}, {"a", "2"}},
                                           {{"a", "1"}, {"a/b", "2"}},
                                           {{"a", "1"}, {"a", "", AE_IFDIR}}}) {
    const absl::Status status = Unpack(MakeArchive(twice)).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(status.message(), HasSubstr("comes twice"));
  }
}

TEST_F(ArchiveUnpackerTest, LongNamesAndDeepFoldersAreRefused) {
  EXPECT_THAT(Refusal({std::string(255, 'n'), "x"}), IsOk());
  EXPECT_THAT(Refusal({std::string(256, 'n'), "x"}).message(),
              HasSubstr("more than 255 bytes"));
  std::string deep;
  for (int i = 0; i < 31; ++i) deep += "d/";
  EXPECT_THAT(Refusal({deep + "f", "x"}), IsOk());
  EXPECT_THAT(Refusal({deep + "d/f", "x"}).message(),
              HasSubstr("more than 32 folders deep"));
  std::string wide;
  for (int i = 0; i < 20; ++i) wide += std::string(250, 'd') + "/";
  const absl::Status status = Refusal({wide + "f", "x"});
  EXPECT_THAT(status.message(), HasSubstr("more than 4096 bytes"));
  EXPECT_LT(status.message().size(), 1000u);
}

TEST_F(ArchiveUnpackerTest, NameInAMessageIsUtf8) {
  EXPECT_THAT(Refusal({"\xff\xfe/..", "x"}).message(),
              HasSubstr("\\xff\\xfe/.."));
}

TEST_F(ArchiveUnpackerTest, JunkOfMacOsIsLeftOut) {
  ASSERT_THAT(Unpack(MakeArchive({{"__MACOSX/a/._b", "junk"},
                                  {"a/.DS_Store", "junk"},
                                  {"a/._b", "junk"},
                                  {"a/b", "c"}},
                                 ArchiveFormat::kZip)),
              IsOk());
  EXPECT_THAT(TreeOf(last_), ElementsAre(Pair("a/", ""), Pair("a/b", "c")));
}

TEST_F(ArchiveUnpackerTest, EachLimitIsKeptToTheByte) {
  const std::string bytes = MakeArchive({{"a/1", "123"}, {"a/2", "4567"}});
  constexpr uint64_t kTotal = 7 + 3 * 4096;  // Two files and their folder.
  limits_ = {.max_total_bytes = kTotal, .max_file_bytes = 4, .max_files = 3};
  EXPECT_THAT(Unpack(bytes), IsOk());
  for (const UnpackLimits& less :
       {UnpackLimits{.max_total_bytes = kTotal - 1},
        UnpackLimits{.max_file_bytes = 3}, UnpackLimits{.max_files = 2}}) {
    limits_ = less;
    EXPECT_THAT(Unpack(bytes), StatusIs(absl::StatusCode::kResourceExhausted));
  }
}

TEST_F(ArchiveUnpackerTest, EmptyFoldersCountAsWhatTheyTakeOnADisk) {
  std::vector<TestEntry> folders;
  for (int i = 0; i < 100; ++i) {
    folders.push_back({"train/" + std::to_string(i) + "/"});
  }
  limits_.max_total_bytes = 300'000;
  EXPECT_THAT(Unpack(MakeArchive(folders)),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(ArchiveUnpackerTest, JunkCountsToo) {
  limits_.max_total_bytes = 4096 + 3;
  EXPECT_THAT(Refusal({"__MACOSX/a", "1234"}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(ArchiveUnpackerTest, BombIsStoppedByItsRatio) {
  limits_ = {.max_ratio = 50, .ratio_slack = 1 << 20};
  const std::string zeros(8 << 20, '\0');
  for (const ArchiveFormat format :
       {ArchiveFormat::kTarGz, ArchiveFormat::kZip}) {
    const absl::Status status = Refusal({"zeros", zeros}, format);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
    EXPECT_THAT(status.message(), HasSubstr("50 times"));
  }
  EXPECT_THAT(Refusal({"zeros", zeros}, ArchiveFormat::kTar), IsOk());
}

TEST_F(ArchiveUnpackerTest, ArchiveThatEndsEarlyIsInvalid) {
  for (const ArchiveFormat format : kFormats) {
    const std::string bytes =
        MakeArchive({{"a", std::string(2000, 'a')}, {"b", "b"}}, format);
    for (const size_t size : {0u, 1u, 30u, 511u, 700u}) {
      if (size * 2 > bytes.size()) continue;  // Compressed to less.
      EXPECT_THAT(Unpack(bytes.substr(0, size)),
                  StatusIs(absl::StatusCode::kInvalidArgument))
          << static_cast<int>(format) << " " << size;
    }
  }
}

TEST_F(ArchiveUnpackerTest, DamagedArchiveIsInvalid) {
  std::string zip = MakeArchive({{"a", std::string(2000, 'a')}, {"b", "b"}},
                                ArchiveFormat::kStoredZip);
  zip[500] ^= 1;  // In the data: the CRC is another.
  EXPECT_THAT(Unpack(zip), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Unpack("GIF89a is no archive"),
              StatusIs(absl::StatusCode::kInvalidArgument));
  std::string tar_gz = MakeArchive({{"a", "aaa"}}, ArchiveFormat::kTarGz);
  tar_gz[30] ^= 0x55;
  EXPECT_THAT(Unpack(tar_gz), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ArchiveUnpackerTest, SparseFileIsRefused) {
  const absl::Status status =
      Unpack(MakeArchive({{"holes", std::string(1 << 20, '\0')}},
                         ArchiveFormat::kPaxTar,
                         [](archive_entry* entry) {
                           archive_entry_sparse_add_entry(entry, 1000, 10);
                         }))
          .status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(status.message(), HasSubstr("sparse"));
}

TEST_F(ArchiveUnpackerTest, ZipOfAnotherMethodThanDeflateIsRefused) {
  std::string zip = MakeArchive({{"a", "aaa"}}, ArchiveFormat::kStoredZip);
  for (const char method : {12, 14, 95, 98}) {  // bzip2, LZMA, XZ, PPMd.
    zip[8] = method;
    const absl::Status status = Unpack(zip).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(status.message(), HasSubstr("another method than deflate"));
  }
}

TEST_F(ArchiveUnpackerTest, EncryptedEntryIsRefused) {
  std::string zip = MakeArchive({{"a", "aaa"}}, ArchiveFormat::kStoredZip);
  zip[6] |= 1;
  const absl::Status status = Unpack(zip).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(status.message(), HasSubstr("encrypted"));
}

TEST_F(ArchiveUnpackerTest, HugeSparseMapIsNotKept) {
  // GNU's sparse format 1.0 puts the map before the data; libarchive keeps it
  // with many times its size.
  std::string map = "3000000\n";
  for (int i = 0; i < 3'000'000; ++i) map += "0\n0\n";
  std::string bytes = MakeArchive(
      {{"holes", map}}, ArchiveFormat::kPaxTar, [](archive_entry* entry) {
        archive_entry_xattr_add_entry(entry, "user.x", "y", 1);
      });
  // Same length, so that the pax record still adds up.
  const size_t at = bytes.find("SCHILY.xattr.user.x=y");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, 21, "GNU.sparse.major=1\n  ");
  EXPECT_THAT(Unpack(bytes).status().message(), HasSubstr("4 MiB"));
}

TEST_F(ArchiveUnpackerTest, ErrorOfTheSourceComesThrough) {
  std::filesystem::create_directory(dir_.path() / "in");
  EXPECT_THAT(UnpackArchive([] { return absl::AbortedError("gone"); },
                            dir_.path() / "in", limits_),
              StatusIs(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace finetune
