#include "image/gzip.h"

#include <igzip_lib.h>
#include <zlib.h>

#include <algorithm>
#include <thread>

#include "base/strings.h"

namespace caisson::image {
namespace {

constexpr size_t kBlock = 1u << 20;
constexpr size_t kMostThreads = 16;

}  // namespace

/// Ends at a byte's border, so that others may follow (RFC 1951, an empty stored block).
Result<> ParallelGzipSink::pack(Block& block) {
  isal_zstream stream;
  isal_deflate_stateless_init(&stream);
  auto* bytes = reinterpret_cast<uint8_t*>(block.data.data());
  auto size = static_cast<uint32_t>(block.data.size());
  block.crc = static_cast<uint32_t>(::crc32(0, bytes, size));
  block.level.resize(ISAL_DEF_LVL2_DEFAULT);
  // Where nothing can be gained it is stored, in pieces of 64 KiB.
  block.packed.resize(kBlock + kBlock / 64 + 4096);
  stream.level = 2;
  stream.level_buf = block.level.data();
  stream.level_buf_size = static_cast<uint32_t>(block.level.size());
  stream.gzip_flag = IGZIP_DEFLATE;
  stream.flush = FULL_FLUSH;
  stream.end_of_stream = 0;
  stream.next_in = bytes;
  stream.avail_in = size;
  stream.next_out = reinterpret_cast<uint8_t*>(block.packed.data());
  stream.avail_out = static_cast<uint32_t>(block.packed.size());
  if (int code = isal_deflate_stateless(&stream); code != COMP_OK || stream.avail_in != 0) return fail("gzip: compression failed (" + std::to_string(code) + ")");
  block.packed.resize(stream.total_out);
  return {};
}

ParallelGzipSink::ParallelGzipSink(Sink& inner) : inner_(inner), filling_(std::make_unique<Block>()), most_(std::clamp<size_t>(std::thread::hardware_concurrency(), 1, kMostThreads)) {}

Result<> ParallelGzipSink::write(std::string_view data) {
  if (!begun_) {
    // Deflate, no name, no time, of an unknown system.
    TRY(inner_.write(std::string_view("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10)));
    begun_ = true;
  }
  while (!data.empty()) {
    size_t n = std::min(data.size(), kBlock - filling_->data.size());
    filling_->data.append(data, 0, n);
    data.remove_prefix(n);
    if (filling_->data.size() == kBlock) TRY(begin_block());
  }
  return {};
}

Result<> ParallelGzipSink::begin_block() {
  if (under_way_.size() >= most_) TRY(end_block());
  filling_->done = std::async(std::launch::async, [block = filling_.get()] { return pack(*block); });
  under_way_.push_back(std::move(filling_));
  if (idle_.empty()) idle_.push_back(std::make_unique<Block>());
  filling_ = std::move(idle_.front());
  idle_.pop_front();
  return {};
}

Result<> ParallelGzipSink::end_block() {
  auto block = std::move(under_way_.front());
  under_way_.pop_front();
  TRY(block->done.get());
  crc_ = static_cast<uint32_t>(::crc32_combine(crc_, block->crc, static_cast<z_off_t>(block->data.size())));
  size_ += static_cast<uint32_t>(block->data.size());
  TRY(inner_.write(block->packed));
  block->data.clear();
  idle_.push_back(std::move(block));
  return {};
}

Result<> ParallelGzipSink::finish() {
  TRY(write({}));
  if (!filling_->data.empty()) TRY(begin_block());
  while (!under_way_.empty()) TRY(end_block());
  // A last block with nothing in it.
  return inner_.write(std::string("\x03\0", 2) + little_endian(crc_, 4) + little_endian(size_, 4));
}

}  // namespace caisson::image
