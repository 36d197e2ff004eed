// All kernel bodies for one vector type and its register tiles, as a table.
#pragma once

#include "kernels/conv_bodies.h"
#include "kernels/element_bodies.h"
#include "kernels/winograd_bodies.h"

namespace {

template <class V, int kPanelVectors, int kRows, int kWideRows = 0>
constexpr KernelTable make_table(const char* name) {
  using P = Products<V, kPanelVectors, kRows, kWideRows>;
  KernelTable t{};
  t.name = name;
  t.lanes = kLanes<V>;
  t.tile_columns = P::kColumns;
  t.conv2d = Convolution<V, P>::conv2d;
  t.depthwise_conv2d = Convolution<V, P>::depthwise_conv2d;
  t.winograd2 = Winograd<V, P, Winograd2>::conv2d;
  t.winograd4 = Winograd<V, P, Winograd4>::conv2d;
  t.winograd6 = Winograd<V, P, Winograd6>::conv2d;
  t.linear = P::linear;
  t.saturate = P::saturate;
  t.batch_norm = Elements<V>::batch_norm;
  t.relu = Elements<V>::relu;
  t.add = Elements<V>::add;
  t.max_pool = Elements<V>::max_pool;
  t.average_pool = Elements<V>::average_pool;
  t.global_average_pool = Elements<V>::global_average_pool;
  t.softmax = Elements<V>::softmax;
  t.entropy = Elements<V>::entropy;
  return t;
}

}  // namespace
