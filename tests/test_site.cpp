#include "tests/test_site.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace offramp::testing {

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

DataSite::DataSite(const TestModel& test_model) : Site(test_model), data(path("data")) {
  const std::vector<std::string> classes = {"cat", "dog", "owl"};
  for (std::uint32_t i = 0; i < 12; ++i) {
    const std::string name = "data/" + classes[i % 3] + "/" + std::to_string(i) + ".png";
    pictures.push_back(file(name, encode_png(random_picture(4, 4, i + 1))));
  }
}

std::map<std::string, int> statuses(const Finished& device) {
  std::map<std::string, int> counts;
  for (const std::string& line : lines(device.out))
    ++counts[nlohmann::json::parse(line).at("status").get<std::string>()];
  return counts;
}

}  // namespace offramp::testing
