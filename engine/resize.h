// A part of a resized picture, computed without the rest of it.
#pragma once

#include "engine/picture.h"

namespace offramp {

struct Window {
  int left = 0, top = 0, width = 0, height = 0;  ///< pixels
};

/// The window of resize(picture, width, height), with which it agrees bit for bit. Memory and time
/// follow the window and the input, however large the resized picture would be.
/// Needs a picture that is not empty, positive sizes, and a window that is not empty and within
/// them.
Picture resize_window(const Picture& picture, int width, int height, const Window& window);

}  // namespace offramp
