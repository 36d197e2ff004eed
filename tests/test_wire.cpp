#include "tests/test_wire.h"

#include <sstream>

#include "engine/file.h"
#include "net/bytes.h"
#include "net/tensor_codec.h"

namespace offramp::testing {
namespace {

using nlohmann::json;

json numbers(const std::vector<float>& values) {
  json list = json::array();
  for (const float value : values) list.push_back(static_cast<double>(value));
  return list;
}

json of_request(const char* message, const RequestId& id) {
  ByteReader in(id);
  const std::uint64_t session = in.u64(), counter = in.u64();
  return {{"message", message}, {"session", session}, {"counter", counter}};
}

json sides(const Shape& shape) { return {shape.height, shape.width, shape.channels}; }

const char* word(TensorError error) {
  switch (error) {
    case TensorError::kSize:
      return "size";
    case TensorError::kPacked:
      return "packed";
    case TensorError::kScale:
      return "scale";
    case TensorError::kNotFinite:
      return "not finite";
  }
  return "";
}

void add_tensor(json& out, const WireTensor& tensor) {
  out["dtype"] = dtype_name(tensor.dtype);
  out["codec"] = tensor.codec == Codec::kRaw ? "raw" : "lz4";
  out["shape"] = sides(tensor.shape);
  out["raw_bytes"] = tensor.raw_bytes;
  out["payload"] = hex(tensor.payload);
  // Of another size it is refused, whatever memory is there.
  const bool fits = raw_bytes(tensor.shape, tensor.dtype) == tensor.raw_bytes;
  std::vector<float> values(fits ? tensor.shape.elements() : 0);
  // Pixels without a mean.
  static const PixelTable table{Preprocess{}};
  const bool pixels = tensor.dtype == DType::kPixels && tensor.shape.channels == 3;
  const auto bad = pixels ? decode_pixels(tensor, tensor.shape, table, values)
                          : decode_tensor(tensor, tensor.shape, values);
  if (bad)
    out["bad_tensor"] = word(*bad);
  else
    out["tensor"] = numbers(values);
}

struct Words {
  template <class Greeting>
  static json greeting(const char* message, const Greeting& m) {
    return {{"message", message}, {"session", m.session},    {"model", hex(m.model)},
            {"cut", m.cut},       {"shape", sides(m.shape)}, {"minor", m.minor}};
  }
  json operator()(const Hello& m) const { return greeting("HELLO", m); }
  json operator()(const Welcome& m) const {
    json out = greeting("WELCOME", m);
    out["tier"] = tier_name(m.tier);
    out["window"] = m.window;
    out["pictures"] = m.pictures;
    return out;
  }
  json operator()(const Handoff& m) const {
    json out = of_request("INFER", m.request);
    out["model"] = hex(m.model);
    out["cut"] = m.cut;
    out["attempt"] = m.attempt;
    out["hop"] = m.hop;
    out["budget_us"] = m.budget_us;
    add_tensor(out, m.tensor);
    return out;
  }
  json operator()(const Verdict& m) const {
    json out = of_request("RESULT", m.request);
    out["tier"] = tier_name(m.tier);
    out["label"] = m.decision.label;
    out["probability"] = static_cast<double>(m.decision.probability);
    out["entropy"] = static_cast<double>(m.decision.entropy);
    out["exit"] = m.decision.exit;
    out["reason"] = reason_name(m.degraded);
    out["probabilities"] = numbers(m.probabilities);
    out["hops"] = json::array();
    for (const Hop& hop : m.hops)
      out["hops"].push_back({{"tier", tier_name(hop.tier)},
                             {"queue_us", hop.queue_us},
                             {"compute_us", hop.compute_us},
                             {"wait_us", hop.wait_us},
                             {"sent_bytes", hop.sent_bytes}});
    return out;
  }
  json operator()(const Fault& m) const {
    json out = of_request("ERROR", m.request);
    out["code"] = static_cast<int>(m.code);
    out["error"] = fault_name(m.code);
    out["model"] = hex(m.model);
    out["text"] = m.text;
    out["retry_after_us"] = m.retry_after_us;
    return out;
  }
  json operator()(const Credit& m) const { return {{"message", "CREDIT"}, {"window", m.window}}; }
  json operator()(const Ping& m) const { return {{"message", "PING"}, {"sequence", m.sequence}}; }
  json operator()(const Pong& m) const {
    return {{"message", "PONG"},    {"sequence", m.sequence},     {"queue_depth", m.queue_depth},
            {"held_us", m.held_us}, {"service_us", m.service_us}, {"workers", m.workers}};
  }
  json operator()(const Cancel& m) const { return of_request("CANCEL", m.request); }
  json operator()(const Drain&) const { return {{"message", "DRAIN"}}; }
  json operator()(const Bye&) const { return {{"message", "BYE"}}; }
};

Bytes from_hex(const std::string& digits) {
  Bytes bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2)
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  return bytes;
}

}  // namespace

std::variant<Message, Malformed> decode_frames(const std::vector<Bytes>& frames,
                                               const DecodeLimits& limits) {
  if (frames.size() != 2) return Malformed::kFrameCount;
  return decode(frames[0], frames[1], limits);
}

json wire_json(const std::variant<Message, Malformed>& decoded) {
  if (const auto* refused = std::get_if<Malformed>(&decoded))
    return {{"refused", malformed_name(*refused)}};
  return std::visit(Words{}, std::get<Message>(decoded));
}

std::vector<std::pair<std::string, std::vector<Bytes>>> read_wire_hex(
    const std::filesystem::path& path) {
  const Bytes file = read_file(path);
  std::istringstream text(std::string(file.begin(), file.end()));
  std::vector<std::pair<std::string, std::vector<Bytes>>> messages;
  for (std::string line; std::getline(text, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    for (std::string word; words >> word;) {
      if (word == "=") {
        words >> word;
        messages.emplace_back(word, std::vector<Bytes>(1));
      } else if (word == "/") {
        messages.back().second.emplace_back();
      } else {
        const Bytes bytes = from_hex(word);
        Bytes& frame = messages.back().second.back();
        frame.insert(frame.end(), bytes.begin(), bytes.end());
      }
    }
  }
  return messages;
}

}  // namespace offramp::testing
