#include "tools/next_options.h"

#include "tools/options.h"

namespace offramp::cli {

void PolicyOption::add_to(CLI::App& app) {
  app.add_option("--policy", text,
                 "balanced: a marked answer when the best one cannot be had;\n"
                 "answer-first: quick answers over best ones; strict: the best\n"
                 "one or none; local-only: hand nothing on [balanced]")
      ->type_name("NAME")
      ->check(one_of({"balanced", "answer-first", "strict", "local-only"}));
}

Policy PolicyOption::policy() const { return policy_named(text).value_or(Policy::kBalanced); }

void CutOption::add_to(CLI::App& app) {
  app.add_option("--cut", text,
                 "what is handed on: the tensor, whose picture never leaves the\n"
                 "device; the picture, smaller but to be computed again; auto:\n"
                 "what is answered sooner, as measured [tensor]")
      ->type_name("NAME")
      ->check(one_of({"tensor", "picture", "auto"}));
}

Cut CutOption::cut() const { return cut_named(text).value_or(Cut::kTensor); }

void NextOption::add_to(CLI::App& app, const std::string& tier) {
  app.add_option("-n,--next", texts, tier + "; several nodes with commas, or --next again")
      ->type_name("HOST:PORT")
      ->allow_extra_args(false);
}

std::vector<std::string> NextOption::endpoints() const {
  std::vector<std::string> all;
  for (const std::string& text : texts)
    for (const std::string& part : split(text, ','))
      all.push_back(parse_peer_endpoint("--next", part));
  return all;
}

}  // namespace offramp::cli
