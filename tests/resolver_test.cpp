// Names become addresses, elsewhere than in the loop that asks.
#include "net/resolver.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "engine/error.h"
#include "net/poll.h"
#include "tests/test_files.h"
#include "tests/test_wait.h"

namespace offramp::test {
namespace {

using std::chrono::seconds;

Resolver::Answer wait_for(Resolver& resolver) {
  const Clock::time_point until = Clock::now() + seconds(20);
  while (Clock::now() < until) {
    if (std::optional<Resolver::Answer> answer = resolver.next()) return *answer;
    wait_readable({{.fd = resolver.fd()}}, until);
  }
  FAIL("wanted an answer, found none");
  return {};
}

}  // namespace

TEST_CASE("resolver: localhost has addresses with the port") {
  Resolver resolver(resolve_addresses);
  resolver.ask("tcp://localhost:7001");
  const Resolver::Answer answer = wait_for(resolver);
  CHECK(answer.endpoint == "tcp://localhost:7001");
  CHECK(answer.problem.empty());
  REQUIRE_FALSE(answer.addresses.empty());
  for (const std::string& address : answer.addresses) {
    CHECK((address == "tcp://127.0.0.1:7001" || address == "tcp://[::1]:7001"));
    CHECK_FALSE(is_name(address));
  }
}

TEST_CASE("resolver: a name that does not exist is a problem in one line") {
  Resolver resolver(resolve_addresses);
  resolver.ask("tcp://no-such-host.invalid:7001");
  const Resolver::Answer answer = wait_for(resolver);
  CHECK(answer.addresses.empty());
  CAPTURE(answer.problem);
  CHECK(answer.problem.find("no-such-host.invalid") != std::string::npos);
  CHECK(answer.problem.find("wanted") != std::string::npos);
  CHECK(answer.problem.find("found") != std::string::npos);
  CHECK(testing::error_of([] { resolve_addresses("tcp://no-such-host.invalid:1"); }).kind() ==
        ErrorKind::kUnavailable);
}

TEST_CASE("resolver: addresses and paths are no names") {
  for (const char* address : {"tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://[fd00::2]:1",
                              "tcp://0.0.0.0:1", "ipc:///tmp/edge"})
    CHECK_FALSE(is_name(address));
  for (const char* name :
       {"tcp://localhost:1", "tcp://edge.local:1", "tcp://1.2.3:1", "tcp://127.0.0.1.nip:1"})
    CHECK(is_name(name));
}

TEST_CASE("resolver: asking and ending do not wait for a lookup") {
  // Outlives the resolver, as its thread does.
  static HeldWork work;
  static std::atomic<int> lookups{0}, ended{0};
  {
    Resolver resolver([](const std::string& endpoint) -> std::vector<std::string> {
      ++lookups;
      work.wait();
      ++ended;
      return {endpoint};
    });
    resolver.ask("tcp://a:1");
    resolver.ask("tcp://a:1");
    resolver.ask("tcp://b:1");
    CHECK(eventually([] { return lookups > 0; }));
    CHECK(lookups == 1);
    CHECK_FALSE(resolver.next());
  }
  CHECK(ended == 0);
  work.hold = false;
  CHECK(eventually([] { return ended > 0; }));
  CHECK(ended == 1);
}

TEST_CASE("resolver: each address once, in order; a throw is a problem, and the next is asked") {
  Resolver resolver([](const std::string& endpoint) -> std::vector<std::string> {
    if (endpoint == "tcp://bad:1") throw std::runtime_error("bad: no luck");
    if (endpoint == "tcp://none:1") return {};
    return {"tcp://10.0.0.2:1", "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"};
  });
  for (const char* endpoint : {"tcp://bad:1", "tcp://none:1", "tcp://good:1"})
    resolver.ask(endpoint);
  CHECK(wait_for(resolver).problem == "bad: no luck");
  CHECK(wait_for(resolver).problem == "tcp://none:1: wanted an address, found none");
  const Resolver::Answer good = wait_for(resolver);
  CHECK(good.problem.empty());
  CHECK(good.addresses == std::vector<std::string>{"tcp://10.0.0.1:1", "tcp://10.0.0.2:1"});
}

}  // namespace offramp::test
