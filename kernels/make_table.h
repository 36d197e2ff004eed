// All kernel bodies for one vector type and its register tiles, as a table.
#pragma once

#include "kernels/bodies.h"
#include "kernels/winograd_bodies.h"

namespace {

template <class V, int kPanelVectors, int kRows, int kWideRows = 0>
constexpr KernelTable make_table(const char* name) {
  using K = Kernels<V, kPanelVectors, kRows, kWideRows>;
  KernelTable t{};
  t.name = name;
  t.tile_rows = kRows > kWideRows ? kRows : kWideRows;
  t.tile_columns = K::kColumns;
  t.conv2d = K::conv2d;
  t.winograd2 = Winograd<V, K, Winograd2>::conv2d;
  t.winograd4 = Winograd<V, K, Winograd4>::conv2d;
  t.depthwise_conv2d = K::depthwise_conv2d;
  t.linear = K::linear;
  t.batch_norm = K::batch_norm;
  t.relu = K::relu;
  t.add = K::add;
  t.max_pool = K::max_pool;
  t.average_pool = K::average_pool;
  t.global_average_pool = K::global_average_pool;
  t.softmax = K::softmax;
  t.entropy = K::entropy;
  return t;
}

}  // namespace
