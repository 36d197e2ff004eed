// Structure of a JPEG file: ITU-T T.81, annex B.
#include <algorithm>
#include <array>
#include <cstring>

#include "engine/picture_check.h"

namespace offramp {
namespace {

constexpr std::uint8_t kSof0 = 0xc0, kSof2 = 0xc2, kDht = 0xc4, kRst0 = 0xd0, kRst7 = 0xd7,
                       kEoi = 0xd9, kSos = 0xda, kDqt = 0xdb, kDri = 0xdd, kApp0 = 0xe0,
                       kApp15 = 0xef, kCom = 0xfe;

// Real progressive files have about ten; each costs a pass over all blocks.
constexpr int kMaxScans = 64;

// A block of 8 x 8 samples takes at least one bit of the file.
constexpr std::uint64_t kMaxPixelsPerByte = 8 * 64;

class JpegCheck {
 public:
  JpegCheck(std::span<const std::uint8_t> file, std::string_view origin)
      : file_(file), origin_(origin), reader_(file, origin) {}

  PictureSize run() {
    reader_.take(2);  // start of image
    for (std::uint8_t marker = next_marker(); marker != kEoi; marker = next_marker()) {
      const std::uint32_t length = reader_.big(2);
      if (length < 2) fail("segments of at least 2 bytes", std::to_string(length));
      PictureReader segment(reader_.take(length - 2), origin_);
      if (marker >= kSof0 && marker <= kSof2) {
        frame(segment, marker == kSof2);
      } else if (marker == kDht) {
        huffman_tables(segment);
      } else if (marker == kDqt) {
        quantisation_tables(segment);
      } else if (marker == kDri) {
        restart_interval_ = segment.big(2);
      } else if (marker == kSos) {
        scan(segment);
      } else if ((marker >= kApp0 && marker <= kApp15) || marker == kCom) {
        segment.take(segment.left());
      } else {
        fail("a baseline or progressive Huffman-coded picture", "marker " + std::to_string(marker));
      }
      if (segment.left() != 0)
        fail("segments without surplus bytes", "marker " + std::to_string(marker));
      if (marker == kSos) skip_entropy_coded_data();
    }
    if (!std::all_of(components_.begin(), components_.begin() + component_count_,
                     [](const Component& c) { return c.seen; }) ||
        component_count_ == 0) {
      fail("scans of all components", "a truncated picture");
    }
    return size_;
  }

 private:
  struct Component {
    std::uint8_t id = 0;
    int across = 1, down = 1, quantisation = 0;
    bool seen = false;
  };

  [[noreturn]] void fail(const std::string& wanted, const std::string& found) const {
    throw bad_data(origin_, "a JPEG with " + wanted, found);
  }

  std::uint8_t next_marker() {
    if (reader_.u8() != 0xff) fail("a marker after each segment", "other bytes");
    std::uint8_t marker = reader_.u8();
    while (marker == 0xff) marker = reader_.u8();  // fill bytes
    return marker;
  }

  void frame(PictureReader& segment, bool progressive) {
    if (component_count_ != 0) fail("one frame", "two");
    progressive_ = progressive;
    if (const int bits = segment.u8(); bits != 8) fail("8 bits a channel", std::to_string(bits));
    const std::int64_t height = segment.big(2), width = segment.big(2);
    const int count = segment.u8();
    if (count != 1 && count != 3) fail("1 or 3 components", std::to_string(count));
    size_ = checked_size(width, height, origin_);
    if (static_cast<std::uint64_t>(width * height) > kMaxPixelsPerByte * file_.size()) {
      fail("data for " + std::to_string(width) + " x " + std::to_string(height) + " pixels",
           std::to_string(file_.size()) + " bytes, too few to hold them");
    }
    int most_across = 1, most_down = 1;
    for (int i = 0; i < count; ++i) {
      Component& component = components_[static_cast<std::size_t>(i)];
      component.id = segment.u8();
      const int sampling = segment.u8();
      component.across = sampling >> 4;
      component.down = sampling & 15;
      component.quantisation = segment.u8();
      if (find(component.id) != nullptr || component.across < 1 || component.across > 4 ||
          component.down < 1 || component.down > 4 || component.quantisation > 3) {
        fail("distinct components with sampling of 1 to 4", "others");
      }
      component_count_ = i + 1;
      most_across = std::max(most_across, component.across);
      most_down = std::max(most_down, component.down);
    }
    for (int i = 0; i < count; ++i) {
      const Component& component = components_[static_cast<std::size_t>(i)];
      if (most_across % component.across != 0 || most_down % component.down != 0) {
        fail("sampling in whole ratios", "others");
      }
    }
  }

  Component* find(std::uint8_t id) {
    const auto end = components_.begin() + component_count_;
    const auto found =
        std::find_if(components_.begin(), end, [id](const Component& c) { return c.id == id; });
    return found == end ? nullptr : &*found;
  }

  void huffman_tables(PictureReader& segment) {
    while (segment.left() > 0) {
      const int which = segment.u8();
      const std::size_t kind = static_cast<std::size_t>(which >> 4);
      const std::size_t id = static_cast<std::size_t>(which & 15);
      if (kind > 1 || id > 3) fail("Huffman tables 0 to 3", std::to_string(which));
      // Codes of each length follow those of the shorter ones; `room` is how many are left.
      std::size_t symbols = 0;
      std::int64_t room = 1;
      for (const std::uint8_t count : segment.take(16)) {
        symbols += count;
        room = room * 2 - count;
        if (room < 0) fail("Huffman codes that fit their lengths", "too many");
      }
      if (symbols < 1 || symbols > 256) fail("1 to 256 Huffman codes", std::to_string(symbols));
      for (const std::uint8_t symbol : segment.take(symbols)) {
        if (kind == 0 && symbol > 15) fail("DC categories to 15", std::to_string(symbol));
      }
      huffman_defined_[kind][id] = true;
    }
  }

  void quantisation_tables(PictureReader& segment) {
    while (segment.left() > 0) {
      const int which = segment.u8();
      if ((which >> 4) > 1 || (which & 15) > 3) {
        fail("quantisation tables 0 to 3", std::to_string(which));
      }
      segment.take((which >> 4) == 1 ? 128 : 64);
      quantisation_defined_[static_cast<std::size_t>(which & 15)] = true;
    }
  }

  void scan(PictureReader& segment) {
    if (component_count_ == 0) fail("its frame before its scans", "none");
    if (++scans_ > kMaxScans) fail("at most " + std::to_string(kMaxScans) + " scans", "more");
    const int count = segment.u8();
    if (count < 1 || count > component_count_) {
      fail("scans of 1 to " + std::to_string(component_count_) + " components",
           std::to_string(count));
    }
    const auto selectors = segment.take(2 * static_cast<std::size_t>(count));
    const int first = segment.u8(), last = segment.u8(), approximation = segment.u8();
    const int high = approximation >> 4, low = approximation & 15;
    if (progressive_) {
      const bool dc_only = first == 0 && last == 0;
      const bool ac_of_one = first > 0 && first <= last && last <= 63 && count == 1;
      if (!(dc_only || ac_of_one) || low > 13 || !(high == 0 || high == low + 1)) {
        fail("progressive scans by the standard", "others");
      }
    } else if (first != 0 || approximation != 0) {
      fail("sequential scans of whole blocks", "others");
    }
    const bool needs_dc = first == 0 && high == 0;
    const bool needs_ac = !progressive_ || first > 0;
    std::array<bool, 256> selected{};
    for (std::size_t i = 0; i < selectors.size(); i += 2) {
      Component* component = find(selectors[i]);
      const std::size_t dc = selectors[i + 1] >> 4, ac = selectors[i + 1] & 15;
      if (component == nullptr || selected[selectors[i]] || dc > 3 || ac > 3 ||
          (needs_dc && !huffman_defined_[0][dc]) || (needs_ac && !huffman_defined_[1][ac]) ||
          !quantisation_defined_[static_cast<std::size_t>(component->quantisation)]) {
        fail("scans of distinct components with defined tables", "others");
      }
      selected[selectors[i]] = true;
      component->seen = true;
    }
  }

  // Stops before the next marker. Within a scan 0xff is followed by 0 (a data byte of 0xff) or by a
  // restart marker; stb_image reads anything else its own way, so it is refused.
  void skip_entropy_coded_data() {
    for (;;) {
      const auto rest = file_.subspan(reader_.position());
      const void* found = std::memchr(rest.data(), 0xff, rest.size());
      if (found == nullptr) fail("an end", "a truncated picture");
      const auto before =
          static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - rest.data());
      if (before + 1 >= rest.size()) fail("an end", "a truncated picture");
      const std::uint8_t code = rest[before + 1];
      const bool restart = code >= kRst0 && code <= kRst7;
      if (code == 0xff) fail("scans without fill bytes", "some");
      if (restart && restart_interval_ == 0) fail("restart markers only when announced", "one");
      reader_.take(before);
      if (code != 0 && !restart) return;
      reader_.take(2);
    }
  }

  std::span<const std::uint8_t> file_;
  std::string_view origin_;
  PictureReader reader_;
  PictureSize size_;
  std::array<Component, 3> components_;
  int component_count_ = 0;
  int scans_ = 0;
  bool progressive_ = false;
  std::uint32_t restart_interval_ = 0;
  std::array<std::array<bool, 4>, 2> huffman_defined_{};  // [DC, AC][id]
  std::array<bool, 4> quantisation_defined_{};
};

}  // namespace

PictureSize check_jpeg(std::span<const std::uint8_t> file, std::string_view origin) {
  return JpegCheck(file, origin).run();
}

}  // namespace offramp
