// One layer of a plan: its kernel chosen, its weights packed, its tensors placed. For plan.cpp.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/conv_algorithm.h"
#include "engine/graph.h"
#include "engine/tensor.h"
#include "kernels/shapes.h"

namespace offramp {

struct KernelTable;

/// Where a tensor is during a run.
struct Operand {
  enum class Place {
    kInput,   ///< the caller's input, the whole batch
    kBatch,   ///< memory of the plan for the whole batch
    kThread,  ///< memory of one thread for the samples it is working on
  };
  Place place = Place::kInput;
  std::size_t offset = 0;  ///< in floats from the beginning of that memory
};

/// The samples and the part of each that one call computes, and its memory.
struct Frame {
  const float* input = nullptr;
  float* batch = nullptr;
  float* local = nullptr;    ///< of the thread whose samples these are
  float* scratch = nullptr;  ///< of the thread that computes
  int first = 0, samples = 1;
  Part part;
};

struct Step {
  std::string name;
  Op op;
  std::vector<Operand> inputs;
  Operand output;
  std::vector<Shape> in;
  Shape out;
  ConvPath path = ConvPath::kDirect;  ///< of a linear layer: kDirect or kIm2col, that is OpenBLAS
  std::vector<Buffer> storage;        ///< what the next two point to
  const float* weights = nullptr;     ///< packed; for a batch norm the scale
  const float* bias = nullptr;        ///< for a batch norm the shift
  std::size_t weight_floats = 0;
  std::size_t scratch_offset = 0;  ///< in a thread's memory
  double macs = 0.0;               ///< of one sample, as direct sums
};

ConvShape conv_shape(const Conv2d& op, const Shape& in, const Shape& out);

/// Packs the weights of step.op for step.path; afterwards nothing points into the model file.
void pack_weights(Step& step, const KernelTable& kernels);

/// Scratch that a call on up to `samples` samples needs.
std::size_t scratch_floats(const Step& step, const KernelTable& kernels, int samples);

/// Whether several threads may each compute a part of one sample's outputs.
bool can_share(const Step& step);

void run_step(const Step& step, const KernelTable& kernels, const Frame& frame) noexcept;

}  // namespace offramp
