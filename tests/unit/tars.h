// Archives for tests, in memory.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "image/tar.h"

namespace caisson::image {

class StringSource : public Source {
 public:
  explicit StringSource(std::string data) : data_(std::move(data)) {}
  Result<size_t> read(char* buffer, size_t size) override {
    size_t n = data_.copy(buffer, std::min<size_t>(size, 1000), at_);  // short reads on purpose
    at_ += n;
    return n;
  }

 private:
  std::string data_;
  size_t at_ = 0;
};

class StringSink : public Sink {
 public:
  Result<> write(std::string_view data) override {
    text.append(data);
    return {};
  }
  std::string text;
};

inline TarEntry entry(const std::string& path, EntryType type = EntryType::file, const std::string& link = "") {
  TarEntry e;
  e.path = path;
  e.type = type;
  e.link = link;
  e.mode = type == EntryType::directory ? 0755 : 0644;
  e.uid = ::getuid();
  e.gid = ::getgid();
  return e;
}

inline std::string tar_of(const std::vector<std::pair<TarEntry, std::string>>& entries) {
  StringSink sink;
  TarWriter tar(sink);
  for (auto [e, data] : entries) {
    e.size = data.size();
    EXPECT_TRUE(tar.add_file(e, data));
  }
  EXPECT_TRUE(tar.finish());
  return sink.text;
}

}  // namespace caisson::image
