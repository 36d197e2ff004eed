#include "tests/test_models.h"

#include <cstdint>
#include <string>
#include <vector>

namespace offramp::testing {
namespace {

TestTensor ramp(std::vector<std::int64_t> shape) {
  TestTensor tensor{std::move(shape), {}};
  std::int64_t count = 1;
  for (const std::int64_t size : tensor.shape) count *= size;
  for (std::int64_t i = 0; i < count; ++i)
    tensor.data.push_back(0.01f * static_cast<float>(i % 7 - 3));
  return tensor;
}

}  // namespace

TestModel lopsided_model(int side, int kernel) {
  const std::string k = std::to_string(kernel), pad = std::to_string(kernel / 2),
                    s = std::to_string(side);
  TestModel model = small_model();
  model.metadata["offramp.name"] = "lopsided";
  model.metadata["offramp.input"] =
      R"({"shape":[3,)" + s + "," + s +
      R"(],"resize":"stretch","mean":[0.5,0.4,0.3],"std":[0.2,0.25,0.5]})";
  model.metadata["offramp.graph"] =
      R"([
{"name":"pool1","op":"global_average_pool","inputs":["input"]},
{"name":"fc1","op":"linear","inputs":["pool1"],"weight":"fc1.weight","bias":"fc1.bias"},
{"name":"conv","op":"conv2d","inputs":["input"],"kernel":[)" +
      k + "," + k + R"(],"stride":[1,1],"padding":[)" + pad + "," + pad +
      R"(],"dilation":[1,1],"groups":1,"weight":"conv.weight","bias":null},
{"name":"relu","op":"relu","inputs":["conv"]},
{"name":"pool2","op":"global_average_pool","inputs":["relu"]},
{"name":"fc2","op":"linear","inputs":["pool2"],"weight":"fc2.weight","bias":"fc2.bias"}])";
  model.tensors = {{"conv.weight", ramp({16, 3, kernel, kernel})},
                   {"fc1.weight", ramp({3, 3})},
                   {"fc1.bias", ramp({3})},
                   {"fc2.weight", ramp({3, 16})},
                   {"fc2.bias", ramp({3})}};
  return model;
}

}  // namespace offramp::testing
