// chaos_proxy: between a client and a server of TCP, and not always faithful.
//
//   chaos_proxy --listen HOST:PORT --to HOST:PORT [--seed N] [--port-file FILE] [--set LINES]
//
// Commands come on stdin, a line each (settings.h), and each gets a line on stdout. It ends with
// stdin, or with SIGTERM. --set is some to begin with, "delay 20; rate 1250000". Port 0 takes a
// free port; the port file gets the bound address once the proxy listens.

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

#include "tests/chaos_proxy/proxy.h"

namespace {

constexpr int kUsage = 64;

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::map<std::string, std::string> options_of(int count, char** arguments) {
  std::map<std::string, std::string> options = {
      {"--listen", ""}, {"--to", ""}, {"--seed", "1"}, {"--port-file", ""}, {"--set", ""}};
  for (int i = 1; i < count; i += 2) {
    const auto found = options.find(arguments[i]);
    if (found == options.end() || i + 1 == count)
      throw UsageError(std::string("wanted --listen, --to, --seed, --port-file or --set and a "
                                   "value, found '") +
                       arguments[i] + "'");
    found->second = arguments[i + 1];
  }
  if (options["--listen"].empty() || options["--to"].empty())
    throw UsageError("wanted --listen HOST:PORT and --to HOST:PORT, found only one or none");
  return options;
}

std::uint64_t seed_of(const std::string& text) {
  std::uint64_t seed = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, seed);
  if (error != std::errc{} || rest != end)
    throw UsageError("--seed: wanted a whole number, found '" + text + "'");
  return seed;
}

/// What is between semicolons.
void begin_with(offramp::chaos::Proxy& proxy, const std::string& lines) {
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line, ';');) {
    if (const std::string problem = proxy.set(line); !problem.empty())
      throw UsageError("--set: " + problem);
  }
}

/// Whole or not at all, for those who wait for it.
void publish(const std::string& path, const std::string& address) {
  const std::string draft = path + "." + std::to_string(getpid());
  std::ofstream(draft) << address << "\n";
  std::error_code error;
  std::filesystem::rename(draft, path, error);
  if (error)
    throw std::runtime_error(path + ": wanted a file to write to, found: " + error.message());
}

}  // namespace

int main(int count, char** arguments) {
  signal(SIGPIPE, SIG_IGN);
  // The first process of a container does not die of it otherwise.
  signal(SIGTERM, [](int) { _exit(0); });
  try {
    const auto options = options_of(count, arguments);
    offramp::chaos::Proxy proxy(options.at("--listen"), options.at("--to"),
                                seed_of(options.at("--seed")));
    begin_with(proxy, options.at("--set"));
    if (const std::string& path = options.at("--port-file"); !path.empty())
      publish(path, proxy.address());
    proxy.run(STDIN_FILENO, STDOUT_FILENO);
    return 0;
  } catch (const UsageError& error) {
    std::fprintf(stderr, "chaos_proxy: %s\n", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "chaos_proxy: %s\n", error.what());
    return 1;
  }
}
