// gzip on all cores, for what leaves this host.
#pragma once

#include <deque>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "image/stream.h"

namespace caisson::image {

/// One gzip member (RFC 1952) of blocks that are compressed each for itself, with ISA-L: several
/// times as fast as GzipSink on one core, and about as small. The bytes are the same for any number of
/// cores, but not for any kind of processor: where digests have to be, GzipSink is what to take.
/// finish() must be called at the end.
class ParallelGzipSink : public Sink {
 public:
  explicit ParallelGzipSink(Sink& inner);
  Result<> write(std::string_view data) override;
  [[nodiscard]] Result<> finish();

 private:
  /// Kept for the next block: fresh memory costs as much as packing.
  struct Block {
    std::string data, packed;
    std::vector<uint8_t> level;
    uint32_t crc = 0;
    std::future<Result<>> done;
  };
  static Result<> pack(Block& block);
  Result<> begin_block();
  Result<> end_block();

  Sink& inner_;
  std::deque<std::unique_ptr<Block>> under_way_, idle_;  ///< under way: in order
  std::unique_ptr<Block> filling_;
  size_t most_;  ///< blocks at once
  uint32_t crc_ = 0, size_ = 0;
  bool begun_ = false;
};

}  // namespace caisson::image
