// TCP sockets as the proxy needs them: none of their calls blocks.
#pragma once

#include <string>
#include <utility>

namespace offramp::chaos {

/// Owns a descriptor.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor() { close(); }
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }

  int number() const { return number_; }
  bool open() const { return number_ >= 0; }
  void close();
  /// close(), and the other end is told with RST instead of FIN.
  void reset();

 private:
  int number_;
};

/// Listens on "HOST:PORT", where port 0 is any free one. Throws std::runtime_error, one line.
Descriptor listen_on(const std::string& address);
/// "127.0.0.1:40001", where a socket listens.
std::string bound_address(const Descriptor& socket);
/// The next client; not open when there is none.
Descriptor accept_from(const Descriptor& listener);
/// Throws std::runtime_error unless the text is HOST:PORT.
void check_address(const std::string& address);
/// Begins to connect to "HOST:PORT", whose name is looked up now. Not open when that fails at once.
Descriptor connect_to(const std::string& address);
/// Whether a connection that has become writable was made.
bool connected(const Descriptor& socket);

}  // namespace offramp::chaos
