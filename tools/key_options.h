// --keys and --insecure: how commands that talk over TCP lock their links.
//
//   KEYS/self.key   own secret key (offramp keygen)
//   KEYS/next.pub   public keys of the next tier's nodes
//   KEYS/allow      who may connect
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "net/node.h"
#include "net/zmq_channel.h"

namespace offramp::cli {

class KeyOptions {
 public:
  void add_to(CLI::App& app, bool listens);

  /// For links to these; no keys for a path, or with --insecure. Throws Error{kUsage} when neither
  /// keys nor --insecure were given, and what reading the files throws.
  std::vector<ZmqEndpoint> links(const std::vector<std::string>& endpoints) const;
  /// The same for a program that is many clients: of all FILE.key in the folder, in order of name;
  /// none for a path, or with --insecure.
  std::vector<LinkKeys> links(const std::string& next) const;
  /// The same for a node that listens; --insecure does so on loopback only.
  std::optional<NodeKeys> node(const std::string& listen) const;
  /// The list as it is now. Throws what reading it throws.
  AllowList allow_list() const;

  /// A line for whoever starts it, when links are in plaintext.
  std::string warning() const;

 private:
  /// Of the files in a folder, or beside an own key that was named itself.
  std::filesystem::path file(const char* name) const;
  bool wanted_for(const std::string& option, const std::string& endpoint) const;

  std::string keys_;
  std::filesystem::path own_key_;
  bool names_folder_ = false;
  bool insecure_ = false;
};

/// The files of a folder of keys.
inline constexpr const char* kOwnKeyFile = "self.key";
inline constexpr const char* kNextKeyFile = "next.pub";
inline constexpr const char* kAllowFile = "allow";

}  // namespace offramp::cli
