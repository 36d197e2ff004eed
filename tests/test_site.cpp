#include "tests/test_site.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace offramp::testing {
namespace {

std::vector<std::string> with_metrics(std::vector<std::string> more, const std::string& port_file) {
  more.insert(more.end(), {"--metrics", "0", "--metrics-port-file", port_file});
  return more;
}

}  // namespace

Site::Site(const TestModel& test_model)
    : model(file("model.safetensors", test_model.signed_file())),
      picture(file("a.png", encode_png(random_picture(4, 4, 1)))),
      marker(file("marker.png", encode_png(random_picture(4, 4, 2)))) {}

std::vector<std::string> Site::run(const std::string& next, int count,
                                   std::vector<std::string> more) const {
  std::vector<std::string> all = {"run", "--model", model, "--thresholds", "0", "--json"};
  if (!next.empty()) all.insert(all.end(), {"--next", next});
  all.insert(all.end(), more.begin(), more.end());
  for (int i = 0; i < count; ++i) all.push_back(i == 20 ? marker : picture);
  return all;
}

Finished Site::patient_run(const std::string& next, int count,
                           std::vector<std::string> more) const {
  more.insert(more.end(), {"--deadline", "20s", "--wait", "20s"});
  return offramp(run(next, count, std::move(more)));
}

DataSite::DataSite(const TestModel& test_model) : Site(test_model), data(path("data")) {
  const std::vector<std::string> classes = {"cat", "dog", "owl"};
  for (std::uint32_t i = 0; i < 12; ++i) {
    const std::string name = "data/" + classes[i % 3] + "/" + std::to_string(i) + ".png";
    pictures.push_back(file(name, encode_png(random_picture(4, 4, i + 1))));
  }
}

MeteredEdge::MeteredEdge(const Site& site, std::vector<std::string> more,
                         std::map<std::string, std::string> environment)
    : RunningNode(site.folder, site.model, "edge",
                  with_metrics(std::move(more), site.path("edge.metrics")), std::move(environment)),
      metrics(lines(text_of(site.path("edge.metrics"))).at(0)) {}

std::map<std::string, int> statuses(const Finished& device) {
  std::map<std::string, int> counts;
  for (const std::string& line : lines(device.out))
    ++counts[nlohmann::json::parse(line).at("status").get<std::string>()];
  return counts;
}

void check_all_ok(const Finished& device, int count) {
  INFO("stderr: ", device.err);
  CHECK(device.code == 0);
  CHECK(statuses(device) == std::map<std::string, int>{{"ok", count}});
}

}  // namespace offramp::testing
