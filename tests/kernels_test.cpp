// Every table against the scalar twins, over sizes around the vector width and at odd offsets.
#include "kernels/kernels.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "engine/tensor.h"
#include "kernels/blas.h"
#include "kernels/layout.h"
#include "kernels/packing.h"
#include "kernels/reference.h"
#include "tests/test_graphs.h"

using namespace offramp;
using test::random_floats;

namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

// Floats that begin `shift` floats past a cache line, as views into larger tensors do.
struct Shifted {
  std::vector<float> storage;
  std::size_t shift;
  Shifted(const std::vector<float>& values, std::size_t by)
      : storage(values.size() + by), shift(by) {
    std::copy(values.begin(), values.end(), storage.begin() + static_cast<std::ptrdiff_t>(by));
  }
  float* data() { return storage.data() + shift; }
};

std::vector<float> last(int c, int h, int w, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  to_channels_last(c, h, w, x.data(), y.data());
  return y;
}

void check_close(const std::vector<float>& found, const std::vector<float>& wanted,
                 float tolerance) {
  REQUIRE(found.size() == wanted.size());
  std::size_t worst = 0;
  float difference = 0.0f;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const float d = std::abs(found[i] - wanted[i]);
    if (!(d <= difference)) {
      difference = d;
      worst = i;
    }
  }
  INFO("worst at ", worst, ": found ", found[worst], ", wanted ", wanted[worst], ", tolerance ",
       tolerance);
  CHECK(difference <= tolerance);
}

// A sum of K products of |a| <= 1 and |b| <= 1 is off by at most about K eps times the largest
// partial sum, K; with random signs partial sums stay near sqrt(K). 4 covers bias, skip and the
// tail.
float sum_tolerance(int terms) {
  const float k = static_cast<float>(terms + 2);
  return 4.0f * kEpsilon * k * std::sqrt(k);
}

ConvShape make_shape(int in, int out, int height, int width, int kernel, int stride, int pad,
                     int dilation, int groups) {
  ConvShape s{in, height, width, out};
  s.kernel_height = s.kernel_width = kernel;
  s.stride_height = s.stride_width = stride;
  s.pad_height = s.pad_width = pad;
  s.dilation_height = s.dilation_width = dilation;
  s.groups = groups;
  const int span = dilation * (kernel - 1) + 1;
  s.out_height = (height + 2 * pad - span) / stride + 1;
  s.out_width = (width + 2 * pad - span) / stride + 1;
  return s;
}

enum class Path { kTable, kWinograd2, kWinograd4, kWinograd6, kBlas };

int tile_of(Path path) {
  return path == Path::kWinograd2   ? 2
         : path == Path::kWinograd4 ? 4
         : path == Path::kWinograd6 ? 6
                                    : 0;
}

// One convolution with bias, skip and ReLU as asked, against the reference.
void check_conv(const KernelTable& table, const ConvShape& s, Path path, bool with_skip, bool relu,
                std::uint32_t seed) {
  CAPTURE(std::string(table.name));
  CAPTURE(s.in_channels);
  CAPTURE(s.out_channels);
  CAPTURE(s.in_height);
  CAPTURE(s.in_width);
  CAPTURE(s.kernel_height);
  CAPTURE(s.stride_height);
  CAPTURE(s.pad_height);
  CAPTURE(s.groups);
  std::mt19937 random(seed);
  const int samples = path == Path::kBlas ? 1 : 1 + static_cast<int>(seed / 3 % 3);
  CAPTURE(samples);
  const int in_size = s.in_channels * s.in_height * s.in_width;
  const int out_size = s.out_channels * s.out_pixels();
  const int depth = s.group_in() * s.taps();
  const auto x = random_floats(random, static_cast<std::size_t>(in_size * samples));
  const auto w = random_floats(random, static_cast<std::size_t>(s.out_channels * depth));
  const auto bias = random_floats(random, static_cast<std::size_t>(s.out_channels));
  const auto skip = random_floats(random, static_cast<std::size_t>(out_size * samples));

  std::vector<float> wanted(skip.size()), inputs(x.size()), skips(skip.size());
  for (int n = 0; n < samples; ++n) {
    float* out = wanted.data() + n * out_size;
    reference::conv2d(s, x.data() + n * in_size, w.data(), bias.data(), out);
    if (with_skip) reference::add(out_size, out, skip.data() + n * out_size, out);
    if (relu) reference::relu(out_size, out, out);
    to_channels_last(s.in_channels, s.in_height, s.in_width, x.data() + n * in_size,
                     inputs.data() + n * in_size);
    to_channels_last(s.out_channels, s.out_height, s.out_width, skip.data() + n * out_size,
                     skips.data() + n * out_size);
  }

  Shifted input(inputs, seed % 5);
  // The skip is read from where the result is written, as a plan may do.
  Shifted out(with_skip ? skips : std::vector<float>(skip.size(), NAN), seed % 3);
  const Epilogue e{bias.data(), with_skip ? out.data() : nullptr, relu};
  const int parts = 1 + static_cast<int>(seed % 4);  // shares of the work, as threads take them
  const int columns = table.tile_columns;
  // The kernels may use all of their scratch, but not a float more.
  const auto run = [&](KernelTable::Conv kernel, const std::vector<float>& packed,
                       std::size_t scratch_floats) {
    constexpr float kGuard = 12345.0f;
    std::vector<float> scratch(scratch_floats + 1, NAN);
    scratch.back() = kGuard;
    for (Part part{0, parts}; part.index < parts; ++part.index) {
      kernel(s, samples, input.data(), packed.data(), e, scratch.data(), part, out.data());
    }
    CHECK(scratch.back() == kGuard);
  };
  if (path == Path::kBlas) {
    std::vector<float> matrix(w.size()), scratch(blas::conv_scratch_floats(s));
    blas::pack_conv(s, w.data(), matrix.data());
    blas::conv2d(s, input.data(), matrix.data(), e, scratch.data(), out.data());
  } else if (const int tile = tile_of(path); tile != 0) {
    std::vector<float> packed(packed_winograd_floats(s, tile, columns));
    pack_winograd(s, tile, columns, w.data(), packed.data());
    run(tile == 2   ? table.winograd2
        : tile == 4 ? table.winograd4
                    : table.winograd6,
        packed, winograd_scratch_floats(s, samples, tile, columns));
  } else if (s.depthwise()) {
    std::vector<float> packed(packed_depthwise_floats(s));
    pack_depthwise(s, w.data(), packed.data());
    for (Part part{0, parts}; part.index < parts; ++part.index) {
      table.depthwise_conv2d(s, samples, input.data(), packed.data(), e, part, out.data());
    }
  } else {
    std::vector<float> packed(packed_conv_floats(s, columns));
    pack_conv(s, columns, w.data(), packed.data());
    run(table.conv2d, packed, conv_scratch_floats(s));
  }
  std::vector<float> found(skip.size());
  for (int n = 0; n < samples; ++n) {
    to_channels_first(s.out_channels, s.out_height, s.out_width, out.data() + n * out_size,
                      found.data() + n * out_size);
  }
  // Winograd adds terms of different size before they cancel: the larger the tile, the more so.
  const float growth = path == Path::kWinograd2   ? 4.0f
                       : path == Path::kWinograd4 ? 16.0f
                       : path == Path::kWinograd6 ? 128.0f
                                                  : 1.0f;
  check_close(found, wanted, growth * sum_tolerance(depth));
}

template <class F>
void for_each_table(F f) {
  for (const KernelTable* table : available_kernels()) {
    CAPTURE(std::string(table->name));
    f(*table);
  }
}

}  // namespace

TEST_CASE("the scalar table is always there and the best is the last") {
  REQUIRE(!available_kernels().empty());
  CHECK(std::string(available_kernels().front()->name) == "scalar");
  CHECK(&best_kernels() == available_kernels().back());
  CHECK(find_kernels("scalar") == available_kernels().front());
  CHECK(find_kernels("avx9") == nullptr);
}

// Linux's own account of the processor: x86 lists what it knows as "flags".
TEST_CASE("the best is what this machine has") {
#if defined(__x86_64__)
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; flags.empty() && std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line);
    flags.insert(std::istream_iterator<std::string>(words), {});
  }
  const auto has = [&](std::initializer_list<const char*> names) {
    return std::ranges::all_of(names, [&](const char* name) { return flags.contains(name); });
  };
  const char* const wanted = has({"avx512f", "avx512bw", "avx512dq", "avx512vl"}) ? "avx512"
                             : has({"avx2", "fma"})                               ? "avx2"
                                                                                  : "sse2";
#elif defined(__aarch64__)
  const char* const wanted = "neon";
#else
  const char* const wanted = "scalar";
#endif
  CHECK(std::string(best_kernels().name) == wanted);
}

TEST_CASE("conv2d equals the reference around every tile size") {
  for_each_table([](const KernelTable& table) {
    std::uint32_t seed = 1;
    for (int out : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48}) {
      for (int in : {1, 3, 5, 16}) {
        check_conv(table, make_shape(in, out, 7, 5, 3, 1, 1, 1, 1), Path::kTable, out % 2, in % 2,
                   ++seed);
        check_conv(table, make_shape(in, out, 6, 9, 1, 1, 0, 1, 1), Path::kTable, in % 2, out % 2,
                   ++seed);
      }
    }
    for (int pixels = 1; pixels < 32; ++pixels) {
      check_conv(table, make_shape(8, 16, 1, pixels, 1, 1, 0, 1, 1), Path::kTable, true, true,
                 ++seed);
    }
  });
}

TEST_CASE("conv2d of few input channels equals the reference for any geometry") {
  for_each_table([](const KernelTable& table) {
    std::uint32_t seed = 500;
    for (int channels : {1, 2, 3, 4}) {
      for (int kernel : {2, 3, 5, 7}) {
        for (int stride : {1, 2, 3}) {
          for (int pad : {0, kernel / 2, kernel - 1}) {
            check_conv(table, make_shape(channels, 18, 13, 9, kernel, stride, pad, 1, 1),
                       Path::kTable, pad % 2, stride % 2, ++seed);
          }
        }
      }
    }
    // Only the height is dilated, the rows are longer than a block.
    ConvShape s = make_shape(3, 5, 12, 300, 3, 1, 1, 1, 1);
    s.dilation_height = 3;
    s.out_height = 12 + 2 - 7 + 1;
    check_conv(table, s, Path::kTable, true, true, ++seed);
  });
}

TEST_CASE("conv2d whose padding and stride times channels leave the range of int") {
  // One pixel of many channels, seen by the second of three outputs only.
  ConvShape s{600'000, 1, 1, 1, 1, 3, 1, 1, 1, 4096};
  s.pad_width = 4096;
  std::mt19937 random(1);
  const auto x = test::random_floats(random, 600'000), w = test::random_floats(random, 600'000);
  double wanted = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) wanted += double{x[i]} * double{w[i]};
  for (const KernelTable* table : available_kernels()) {
    CAPTURE(std::string(table->name));
    Buffer packed(packed_conv_floats(s, table->tile_columns)), scratch(conv_scratch_floats(s));
    pack_conv(s, table->tile_columns, w.data(), packed.data());
    std::vector<float> y(3, 1.0f);
    table->conv2d(s, 1, x.data(), packed.data(), {}, scratch.data(), {}, y.data());
    CHECK(y[0] == 0.0f);
    CHECK(y[1] == doctest::Approx(wanted).epsilon(1e-3));
    CHECK(y[2] == 0.0f);
  }
}

TEST_CASE("conv2d equals the reference for any stride, padding, dilation and groups") {
  for_each_table([](const KernelTable& table) {
    std::uint32_t seed = 1000;
    for (Path path : {Path::kTable, Path::kBlas}) {
      for (int kernel : {1, 2, 3, 5, 7}) {
        for (int stride : {1, 2, 3}) {
          for (int pad : {0, kernel / 2, kernel - 1}) {
            check_conv(table, make_shape(6, 10, 11, 8, kernel, stride, pad, 1, 2), path, pad % 2,
                       stride % 2, ++seed);
          }
        }
      }
      check_conv(table, make_shape(4, 6, 15, 13, 3, 1, 2, 2, 1), path, true, true, ++seed);
      check_conv(table, make_shape(4, 6, 15, 13, 3, 2, 0, 3, 2), path, false, false, ++seed);
      check_conv(table, make_shape(6, 12, 9, 9, 3, 1, 1, 1, 6), path, true, false, ++seed);
      for (int channels : {1, 2, 7, 8, 9, 16, 17, 35}) {
        check_conv(table, make_shape(channels, channels, 9, 7, 3, 2, 1, 1, channels), path, true,
                   true, ++seed);
      }
    }
  });
}

TEST_CASE("Winograd equals the reference for any size, padding and epilogue") {
  for_each_table([](const KernelTable& table) {
    std::uint32_t seed = 2000;
    for (Path path : {Path::kWinograd2, Path::kWinograd4, Path::kWinograd6}) {
      for (int height : {1, 3, 4, 5, 8, 13}) {
        for (int width : {2, 3, 6, 9}) {
          for (int pad : {0, 1, 2}) {
            if (height + 2 * pad < 3 || width + 2 * pad < 3) continue;
            check_conv(table, make_shape(5, 7, height, width, 3, 1, pad, 1, 1), path, pad % 2,
                       height % 2, ++seed);
          }
        }
      }
      for (int channels : {1, 8, 16, 17, 33, 64, 96}) {
        check_conv(table, make_shape(channels, channels, 16, 16, 3, 1, 1, 1, 1), path, true, true,
                   ++seed);
      }
    }
  });
}

TEST_CASE("conv2d at the sizes of real layers") {
  for_each_table([](const KernelTable& table) {
    for (Path path : {Path::kTable, Path::kBlas}) {
      check_conv(table, make_shape(3, 16, 32, 32, 3, 1, 1, 1, 1), path, false, true, 1);
      check_conv(table, make_shape(16, 32, 32, 32, 3, 2, 1, 1, 1), path, false, true, 2);
      check_conv(table, make_shape(64, 64, 8, 8, 3, 1, 1, 1, 1), path, true, true, 3);
      check_conv(table, make_shape(3, 64, 56, 56, 7, 2, 3, 1, 1), path, false, true, 4);
    }
  });
}

TEST_CASE("linear equals the reference and does not depend on the batch") {
  for_each_table([](const KernelTable& table) {
    std::mt19937 random(7);
    for (int in : {1, 7, 64, 130}) {
      for (int out : {1, 8, 10, 16, 33, 100, 130}) {
        const int rows = 1 + static_cast<int>(random() % 20);
        const int parts = 1 + static_cast<int>(random() % 3);
        CAPTURE(in);
        CAPTURE(out);
        CAPTURE(rows);
        const auto size = [](int a, int b) { return static_cast<std::size_t>(a * b); };
        const auto x = random_floats(random, size(rows, in));
        const auto w = random_floats(random, size(out, in));
        const auto bias = random_floats(random, size(out, 1));
        std::vector<float> packed(packed_linear_floats(in, out, table.tile_columns));
        pack_linear(in, out, table.tile_columns, w.data(), packed.data());
        const Epilogue e{bias.data(), nullptr, out % 2 == 0};
        std::vector<float> wanted(size(rows, out)), found(wanted.size()), single(wanted.size()),
            by_blas(wanted.size());
        for (Part part{0, parts}; part.index < parts; ++part.index) {
          table.linear(rows, in, out, x.data(), packed.data(), e, part, found.data());
        }
        for (int r = 0; r < rows; ++r) {
          const float* from = x.data() + r * in;
          reference::linear(in, out, from, w.data(), bias.data(), wanted.data() + r * out);
          table.linear(1, in, out, from, packed.data(), e, {}, single.data() + r * out);
          blas::linear(in, out, from, w.data(), e, by_blas.data() + r * out);
        }
        if (e.relu) reference::relu(rows * out, wanted.data(), wanted.data());
        check_close(found, wanted, sum_tolerance(in));
        check_close(by_blas, wanted, sum_tolerance(in));
        CHECK(found == single);
      }
    }
  });
}

TEST_CASE("elementwise kernels equal the reference, in place too") {
  for_each_table([](const KernelTable& table) {
    std::mt19937 random(3);
    for (int count : {1, 2, 7, 8, 9, 16, 31, 100}) {
      CAPTURE(count);
      const std::size_t n = static_cast<std::size_t>(count);
      const auto a = random_floats(random, n), b = random_floats(random, n);
      std::vector<float> wanted(n), found = a;
      reference::relu(count, a.data(), wanted.data());
      table.relu(count, found.data(), found.data());
      CHECK(found == wanted);
      reference::add(count, a.data(), b.data(), wanted.data());
      found = a;
      table.add(count, found.data(), b.data(), false, found.data());
      CHECK(found == wanted);
      reference::relu(count, wanted.data(), wanted.data());
      table.add(count, a.data(), b.data(), true, found.data());
      CHECK(found == wanted);
    }
  });
}

TEST_CASE("ReLU keeps a NaN, in the vectors and in the tail") {
  for_each_table([](const KernelTable& table) {
    std::vector<float> x(19, NAN), y(19, 0.0f);
    table.relu(19, x.data(), y.data());
    for (float v : y) CHECK(std::isnan(v));
  });
}

TEST_CASE("batch norm equals the reference") {
  for_each_table([](const KernelTable& table) {
    std::mt19937 random(5);
    for (int channels : {1, 7, 8, 9, 33}) {
      const int height = 3, width = 5, pixels = height * width;
      const std::size_t n = static_cast<std::size_t>(channels);
      const auto x = random_floats(random, n * 15), mean = random_floats(random, n),
                 variance = random_floats(random, n, 0.5f, 2.0f), weight = random_floats(random, n),
                 bias = random_floats(random, n);
      std::vector<float> wanted(x.size()), scale(n), shift(n), found(x.size());
      reference::batch_norm(channels, pixels, x.data(), weight.data(), bias.data(), mean.data(),
                            variance.data(), 1e-5f, wanted.data());
      for (std::size_t c = 0; c < n; ++c) {
        scale[c] = weight[c] / std::sqrt(variance[c] + 1e-5f);
        shift[c] = bias[c] - mean[c] * scale[c];
      }
      table.batch_norm(pixels, channels, last(channels, height, width, x).data(), scale.data(),
                       shift.data(), found.data());
      std::vector<float> first(x.size());
      to_channels_first(channels, height, width, found.data(), first.data());
      check_close(first, wanted, 16 * kEpsilon);
    }
  });
}

TEST_CASE("pooling equals the reference with clipped and padded windows") {
  for_each_table([](const KernelTable& table) {
    std::mt19937 random(9);
    for (int channels : {1, 5, 8, 19}) {
      for (int kernel : {1, 2, 3}) {
        for (int stride : {1, 2, 3}) {
          for (bool ceil_mode : {false, true}) {
            for (bool count_include_pad : {false, true}) {
              PoolShape s{channels, 8, 7};
              s.kernel_height = s.kernel_width = kernel;
              s.stride_height = s.stride_width = stride;
              s.pad_height = s.pad_width = kernel / 2;
              s.count_include_pad = count_include_pad;
              const Shape out = output_shape(
                  MaxPool{{kernel, kernel}, {stride, stride}, {kernel / 2, kernel / 2}, ceil_mode},
                  std::vector<Shape>{{channels, 8, 7}});
              s.out_height = out.height;
              s.out_width = out.width;
              CAPTURE(channels);
              CAPTURE(kernel);
              CAPTURE(stride);
              CAPTURE(ceil_mode);
              const auto x = random_floats(random, static_cast<std::size_t>(channels * 56));
              const auto x_last = last(channels, 8, 7, x);
              std::vector<float> wanted(out.elements()), found(out.elements()),
                  first(out.elements());
              reference::max_pool(s, x.data(), wanted.data());
              table.max_pool(s, x_last.data(), found.data());
              to_channels_first(channels, out.height, out.width, found.data(), first.data());
              CHECK(first == wanted);
              reference::average_pool(s, x.data(), wanted.data());
              table.average_pool(s, x_last.data(), found.data());
              to_channels_first(channels, out.height, out.width, found.data(), first.data());
              check_close(first, wanted, 8 * kEpsilon);
            }
          }
        }
      }
      const auto x = random_floats(random, static_cast<std::size_t>(channels * 56));
      std::vector<float> wanted(static_cast<std::size_t>(channels)), found(wanted.size());
      reference::global_average_pool(channels, 56, x.data(), wanted.data());
      table.global_average_pool(56, channels, last(channels, 8, 7, x).data(), found.data());
      check_close(found, wanted, 16 * kEpsilon);
    }
  });
}

TEST_CASE("softmax and entropy equal the reference") {
  for_each_table([](const KernelTable& table) {
    std::mt19937 random(11);
    for (int count : {2, 3, 8, 10, 16, 17, 100, 1000}) {
      CAPTURE(count);
      const auto x = random_floats(random, static_cast<std::size_t>(count), -20.0f, 20.0f);
      std::vector<float> wanted(x.size()), found(x.size());
      reference::softmax(count, x.data(), wanted.data());
      table.softmax(count, x.data(), found.data());
      check_close(found, wanted, 16 * kEpsilon);
      const float entropy = reference::entropy(count, wanted.data());
      // Where p is close to 1, its rounding alone changes -p ln p by eps.
      CHECK(std::abs(table.entropy(count, found.data()) - entropy) <=
            8 * kEpsilon * (1.0f + entropy));
    }
  });
}

TEST_CASE("entropy: certain, uniform, not a number") {
  for_each_table([](const KernelTable& table) {
    std::vector<float> p(10, 0.0f);
    p[3] = 1.0f;
    CHECK(table.entropy(10, p.data()) == 0.0f);
    std::fill(p.begin(), p.end(), 0.1f);
    CHECK(table.entropy(10, p.data()) == doctest::Approx(std::log(10.0)));
    for (int bad : {0, 9}) {
      std::vector<float> x(10, 1.0f), q(10);
      x[static_cast<std::size_t>(bad)] = NAN;
      table.softmax(10, x.data(), q.data());
      CHECK(std::isnan(table.entropy(10, q.data())));
      x[static_cast<std::size_t>(bad)] = INFINITY;
      table.softmax(10, x.data(), q.data());
      CHECK(std::isnan(table.entropy(10, q.data())));
    }
  });
}
