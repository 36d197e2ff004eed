#include "engine/dataset.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <fstream>
#include <system_error>

#include "engine/error.h"
#include "engine/file.h"

namespace offramp {
namespace {

namespace fs = std::filesystem;

Error bad_data(const fs::path& where, const std::string& wanted, const std::string& found) {
  return Error(ErrorKind::kBadData, where.string() + ": wanted " + wanted + ", found " + found);
}

std::string joined(const std::vector<std::string>& names) {
  constexpr std::size_t kMostNames = 10;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kMostNames; ++i) {
    text += (i == 0 ? "" : " ") + names[i];
  }
  return names.size() > kMostNames ? text + " ..." : text;
}

// CIFAR-10's binary layout: records of a label byte and 32 x 32 pixels, one plane per colour.
class CifarDataset final : public Dataset {
 public:
  static constexpr std::size_t kSide = 32;
  static constexpr std::size_t kPlane = kSide * kSide;
  static constexpr std::size_t kRecord = 1 + 3 * kPlane;
  static constexpr std::size_t kClasses = 10;

  CifarDataset(const fs::path& path, const std::vector<std::string>& classes)
      : file_(read_file(path)), file_name_(path.filename().string()) {
    const std::size_t bytes = file_.size();
    if (bytes == 0 || bytes % kRecord != 0) {
      throw bad_data(path, "records of " + std::to_string(kRecord) + " bytes",
                     std::to_string(bytes) + " bytes");
    }
    check_classes(path.parent_path() / "batches.meta.txt", classes);
    for (std::size_t i = 0; i < size(); ++i) {
      if (static_cast<std::size_t>(label(i)) >= kClasses) {
        throw bad_data(path, "labels below " + std::to_string(kClasses),
                       std::to_string(label(i)) + " in record " + std::to_string(i));
      }
    }
  }

  std::size_t size() const override { return file_.size() / kRecord; }
  int label(std::size_t index) const override { return record(index)[0]; }
  std::string name(std::size_t index) const override {
    return file_name_ + "#" + std::to_string(index);
  }
  Picture picture(std::size_t index) const override {
    const auto planes = record(index).subspan(1);
    Picture picture{kSide, kSide, std::vector<std::uint8_t>(3 * kPlane)};
    for (std::size_t i = 0; i < kPlane; ++i) {
      for (std::size_t c = 0; c < 3; ++c) picture.rgb[i * 3 + c] = planes[c * kPlane + i];
    }
    return picture;
  }

 private:
  // Labels mean the model's classes only when both have them in the same order.
  static void check_classes(const fs::path& path, const std::vector<std::string>& classes) {
    if (classes.size() != kClasses) {
      throw bad_data(path.parent_path(), "a model of CIFAR-10's 10 classes",
                     std::to_string(classes.size()) + " classes");
    }
    std::ifstream file(path);
    if (!file) return;
    std::vector<std::string> names;
    for (std::string line; names.size() <= kClasses && std::getline(file, line);) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) names.push_back(line);
    }
    if (names != classes) {
      throw bad_data(path, "the model's classes " + joined(classes), joined(names));
    }
  }

  std::span<const std::uint8_t> record(std::size_t index) const {
    return std::span<const std::uint8_t>(file_).subspan(index * kRecord, kRecord);
  }

  std::vector<std::uint8_t> file_;
  std::string file_name_;
};

bool is_picture_name(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg" || extension == ".bmp";
}

// One subfolder per class.
class FolderDataset final : public Dataset {
 public:
  FolderDataset(const fs::path& dir, const std::vector<std::string>& classes) {
    for (const auto& folder : fs::directory_iterator(dir)) {
      if (!folder.is_directory()) continue;
      const std::string name = folder.path().filename().string();
      const auto found = std::find(classes.begin(), classes.end(), name);
      if (found == classes.end()) {
        throw bad_data(dir, "subfolders named as the model's classes (" + joined(classes) + ")",
                       "'" + name + "'");
      }
      const int label = static_cast<int>(found - classes.begin());
      for (const auto& file : fs::directory_iterator(folder)) {
        if (file.is_regular_file() && is_picture_name(file.path())) {
          entries_.push_back({file.path(), label});
        }
      }
    }
    if (entries_.empty()) {
      throw bad_data(dir,
                     "test_batch.bin, cifar-10-batches-bin/test_batch.bin, or pictures (.png .jpg "
                     ".jpeg .bmp) in one subfolder per class",
                     "none of them");
    }
    std::sort(entries_.begin(), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.path < b.path; });
  }

  std::size_t size() const override { return entries_.size(); }
  int label(std::size_t index) const override { return entries_[index].label; }
  std::string name(std::size_t index) const override { return entries_[index].path.string(); }
  Picture picture(std::size_t index) const override { return read_picture(entries_[index].path); }

 private:
  struct Entry {
    fs::path path;
    int label = -1;
  };
  std::vector<Entry> entries_;
};

}  // namespace

std::unique_ptr<Dataset> open_dataset(const fs::path& dir,
                                      const std::vector<std::string>& classes) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (!fs::is_directory(status)) {
    throw Error(ErrorKind::kMissingInput, dir.string() + ": wanted a folder, found " +
                                              (fs::exists(status) ? "a file" : "none"));
  }
  for (const fs::path& folder : {dir, dir / "cifar-10-batches-bin"}) {
    const fs::path file = folder / "test_batch.bin";
    if (fs::exists(file, error)) return std::make_unique<CifarDataset>(file, classes);
  }
  try {
    return std::make_unique<FolderDataset>(dir, classes);
  } catch (const fs::filesystem_error& failure) {
    throw Error(
        ErrorKind::kMissingInput,
        dir.string() + ": wanted a folder that can be read, found " + failure.code().message());
  }
}

}  // namespace offramp
