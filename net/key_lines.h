// Text that lists keys, as people keep it: a record a line, words with blanks between them,
// comments. net/WIRE.md, "Security", is the specification.
#pragma once

#include <string>
#include <string_view>

#include "net/keys.h"

namespace offramp {

class KeyLines {
 public:
  /// `text` outlives it; `where` it is from is for messages.
  KeyLines(std::string_view text, std::string where);

  /// Goes on to the next line that is neither blank nor a comment; false at the end of the text.
  bool next();
  int number() const { return number_; }  ///< of the line, from 1

  /// The line's next word; empty at its end.
  std::string_view word();
  /// The line's next word as a key; refuses another one, and does not repeat it: it may be a
  /// secret.
  PublicKey key();
  /// What is left of the line, without blanks around it.
  std::string_view rest() const { return line_; }

  /// Throws Error{kBadKeys} that names `where` and the line.
  [[noreturn]] void refuse(const std::string& wanted, const std::string& found) const;

 private:
  std::string_view text_;  ///< after the line
  std::string_view line_;
  std::string where_;
  int number_ = 0;
};

}  // namespace offramp
