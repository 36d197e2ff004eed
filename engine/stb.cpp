// The only file that names stb_image.
#include "engine/stb.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

// stb_image's allocator takes no context, so the budget of the decode in progress is per thread.
thread_local std::size_t held_bytes = 0;

// Stands before each block; as large as the strictest alignment, so that the block keeps it.
struct alignas(std::max_align_t) BlockHeader {
  std::size_t size;
};

// Zeroed, because stb_image reads Huffman tables it never filled when a file makes it.
void* budget_malloc(std::size_t size) {
  if (size > offramp::kMaxDecodeBytes - std::min(held_bytes, offramp::kMaxDecodeBytes)) {
    return nullptr;
  }
  auto* header = static_cast<BlockHeader*>(std::calloc(1, sizeof(BlockHeader) + size));
  if (header == nullptr) return nullptr;
  header->size = size;
  held_bytes += size;
  return header + 1;
}

void budget_free(void* block) {
  if (block == nullptr) return;
  BlockHeader* header = static_cast<BlockHeader*>(block) - 1;
  held_bytes -= header->size;
  std::free(header);
}

// Counts old and new block together, as they exist together while the bytes are copied.
void* budget_realloc(void* block, std::size_t old_size, std::size_t size) {
  void* result = budget_malloc(size);
  if (result == nullptr) return nullptr;
  if (block != nullptr) std::memcpy(result, block, std::min(old_size, size));
  budget_free(block);
  return result;
}

}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_FAILURE_USERMSG
#define STBI_MAX_DIMENSIONS 16384
// A hostile file must not end the process.
#define STBI_ASSERT(condition) ((void)0)
#define STBI_MALLOC(size) budget_malloc(size)
#define STBI_REALLOC_SIZED(block, old_size, size) budget_realloc(block, old_size, size)
#define STBI_FREE(block) budget_free(block)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace offramp {

void DecodedPicture::Free::operator()(std::uint8_t* p) const { stbi_image_free(p); }

DecodedPicture decode_with_stb(std::span<const std::uint8_t> file) {
  DecodedPicture picture;
  int channels = 0;
  picture.rgb.reset(stbi_load_from_memory(file.data(), static_cast<int>(file.size()),
                                          &picture.width, &picture.height, &channels, 3));
  if (picture.rgb == nullptr) picture.failure = stbi_failure_reason();
  return picture;
}

}  // namespace offramp
