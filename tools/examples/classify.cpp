// Classifies pictures, all of them under way at once: classify MODEL NEXT KEYS PICTURE...
//
//   c++ -std=c++20 classify.cpp $(pkg-config --cflags --libs offramp-client) -o classify
#include <offramp/client.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>

int main(int count, char** words) try {
  if (count < 5) return static_cast<int>(offramp::ClientCode::kUsage);
  using std::chrono::seconds;
  offramp::Client client({.model = words[1],
                          .next = {words[2]},
                          .keys = words[3],
                          .deadline = seconds(60),
                          .connect_grace = seconds(60),
                          .queue = count});
  std::map<offramp::ClientTicket, const char*> pictures;
  for (int i = 4; i < count; ++i) {
    std::ifstream in(words[i], std::ios::binary);
    const std::vector<char> file{std::istreambuf_iterator<char>(in), {}};
    pictures[client.submit({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()})] =
        words[i];
  }
  while (const auto outcome = client.wait_any(seconds(120))) {
    const offramp::ClientResult& result = outcome->result;
    if (outcome->code != offramp::ClientCode::kOk)
      throw offramp::ClientError(outcome->code, outcome->message);
    std::printf("%s %d %a %s %s %s\n", pictures[outcome->ticket], result.label,
                static_cast<double>(result.probability), result.class_name.c_str(),
                result.tier.c_str(), result.status.c_str());
  }
} catch (const offramp::ClientError& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return static_cast<int>(error.code());
}
