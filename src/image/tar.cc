#include "image/tar.h"

#include <algorithm>
#include <cstring>

#include "base/strings.h"

namespace caisson::image {
namespace {

constexpr size_t kBlock = 512;

struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], uname[32], gname[32], major[8],
      minor[8], prefix[155], pad[12];
};
static_assert(sizeof(Header) == kBlock);

std::string text(const char* field, size_t size) { return std::string(field, ::strnlen(field, size)); }

/// Octal, or GNU's base-256 with the top bit set.
template <size_t N>
Result<int64_t> number(const char (&field)[N]) {
  if (static_cast<unsigned char>(field[0]) & 0x80) {
    bool negative = (field[0] & 0x40) != 0;
    uint64_t value = negative ? ~uint64_t{0} : 0;
    for (size_t i = 0; i < N; ++i) {
      unsigned char byte = static_cast<unsigned char>(field[i]);
      if (i == 0) byte = negative ? byte | 0x80 : byte & 0x7f;
      if (i + 8 < N && byte != (negative ? 0xff : 0)) return fail("number out of range");
      value = value << 8 | byte;
    }
    return static_cast<int64_t>(value);
  }
  int64_t value = 0;
  size_t i = 0;
  while (i < N && (field[i] == ' ' || field[i] == '\0')) ++i;
  for (; i < N && field[i] != ' ' && field[i] != '\0'; ++i) {
    if (field[i] < '0' || field[i] > '7' || value > (INT64_MAX >> 3)) return fail("damaged number");
    value = value * 8 + (field[i] - '0');
  }
  return value;
}

bool checksum_matches(Header header) {
  auto stored = number(header.checksum);
  std::memset(header.checksum, ' ', sizeof header.checksum);
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  int32_t sum = 0, high = 0;
  for (size_t i = 0; i < kBlock; ++i) sum += bytes[i];
  for (size_t i = 0; i < kBlock; ++i) high += bytes[i] >> 7;
  // Some writers have added signed bytes.
  return stored && (*stored == sum || *stored == sum - 256 * high);
}

/// "LEN key=value\n" records.
Result<> parse_pax(const std::string& data, std::map<std::string, std::string>& out) {
  size_t at = 0;
  while (at < data.size()) {
    size_t space = data.find(' ', at);
    if (space == std::string::npos) return fail("damaged pax record");
    auto length = parse_uint(std::string_view(data).substr(at, space - at), data.size() - at);
    if (!length || *length < space - at + 3 || data[at + *length - 1] != '\n') return fail("damaged pax record");
    std::string_view record = std::string_view(data).substr(space + 1, at + *length - 1 - space - 1);
    size_t equals = record.find('=');
    if (equals == std::string_view::npos) return fail("damaged pax record");
    out[std::string(record.substr(0, equals))] = record.substr(equals + 1);
    at += *length;
  }
  return {};
}

/// A pax time: seconds with a fraction (pax, "pax Extended Header").
Result<std::pair<int64_t, uint32_t>> seconds(std::string_view text) {
  bool before_1970 = text.starts_with('-');
  size_t point = text.find('.');
  std::string fraction(point == std::string_view::npos ? "" : text.substr(point + 1, 9));
  fraction.resize(9, '0');
  auto whole = static_cast<int64_t>(TRY(parse_uint(text.substr(0, point).substr(before_1970 ? 1 : 0), INT64_MAX)));
  auto nanoseconds = static_cast<uint32_t>(TRY(parse_uint(fraction, 999'999'999)));
  if (!before_1970) return std::pair{whole, nanoseconds};
  return nanoseconds == 0 ? std::pair{-whole, 0u} : std::pair{-whole - 1, 1'000'000'000u - nanoseconds};
}

std::string strip_leading(std::string_view path) {
  for (;;) {
    if (path.starts_with("./"))
      path.remove_prefix(2);
    else if (path.starts_with("/"))
      path.remove_prefix(1);
    else
      break;
  }
  return std::string(path == "." ? "" : path);
}

}  // namespace

Result<bool> TarReader::read_block(char* block) {
  size_t have = 0;
  while (have < kBlock) {
    size_t n = TRY(source_.read(block + have, kBlock - have));
    if (n == 0) {
      if (have == 0) return false;
      return fail("tar: ends inside a header (truncated)");
    }
    have += n;
  }
  position_ += kBlock;
  return true;
}

Result<> TarReader::skip(uint64_t bytes) {
  uint64_t skipped = TRY(source_.skip(bytes));
  position_ += skipped;
  if (skipped < bytes) return fail("tar: ends inside an entry (truncated)");
  return {};
}

Result<std::string> TarReader::read_record(uint64_t size, std::string_view what) {
  if (size > limits_.header_bytes) return fail("tar: " + std::string(what) + " of " + std::to_string(size) + " bytes is too large");
  std::string data(size, '\0');
  size_t have = 0;
  while (have < size) {
    size_t n = TRY(source_.read(data.data() + have, size - have));
    if (n == 0) return fail("tar: ends inside a record (truncated)");
    have += n;
  }
  position_ += size;
  TRY(skip((kBlock - size % kBlock) % kBlock));
  return data;
}

Result<bool> TarReader::next(TarEntry& entry) {
  TRY(skip(left_ + padding_));
  left_ = padding_ = 0;
  std::map<std::string, std::string> pax = global_;
  std::string long_name, long_link;
  for (;;) {
    Header header;
    if (!TRY(read_block(reinterpret_cast<char*>(&header)))) return false;
    if (std::all_of(reinterpret_cast<char*>(&header), reinterpret_cast<char*>(&header) + kBlock, [](char c) { return c == 0; })) return false;
    if (!checksum_matches(header)) return fail("tar: damaged header at byte " + std::to_string(position_ - kBlock) + " (is this a tar archive?)");
    if (++entries_ > limits_.entries) return fail("tar: more than " + std::to_string(limits_.entries) + " entries");
    int64_t size = TRY(number(header.size), "tar: size");
    if (size < 0) return fail("tar: negative size");
    auto data_size = static_cast<uint64_t>(size);
    switch (header.type) {
      case 'x': TRY(parse_pax(TRY(read_record(data_size, "pax header")), pax), "tar"); continue;
      case 'g':
        TRY(parse_pax(TRY(read_record(data_size, "global pax header")), global_), "tar");
        pax.insert(global_.begin(), global_.end());
        continue;
      case 'L': long_name = TRY(read_record(data_size, "long name")); continue;
      case 'K': long_link = TRY(read_record(data_size, "long link")); continue;
      default: break;
    }
    entry = {};
    bool ustar = std::memcmp(header.magic, "ustar", 5) == 0;
    std::string name = text(header.name, sizeof header.name);
    if (ustar && header.magic[5] == '\0')
      if (std::string prefix = text(header.prefix, sizeof header.prefix); !prefix.empty()) name = prefix + "/" + name;
    entry.link = text(header.link, sizeof header.link);
    if (!long_name.empty()) name = long_name.c_str();
    if (!long_link.empty()) entry.link = long_link.c_str();
    entry.mode = static_cast<uint32_t>(TRY(number(header.mode), "tar: mode")) & 07777;
    auto id = [](int64_t value) -> Result<uint32_t> {
      if (value < 0 || value >= UINT32_MAX) return fail("tar: user or group id out of range");
      return static_cast<uint32_t>(value);
    };
    entry.uid = TRY(id(TRY(number(header.uid), "tar: uid")));
    entry.gid = TRY(id(TRY(number(header.gid), "tar: gid")));
    entry.mtime = TRY(number(header.mtime), "tar: mtime");
    for (const auto& [key, value] : pax) {
      if (key == "path") name = value;
      else if (key == "linkpath") entry.link = value;
      else if (key == "size") data_size = TRY(parse_uint(value, INT64_MAX), "tar: pax size");
      else if (key == "uid") entry.uid = static_cast<uint32_t>(TRY(parse_uint(value, UINT32_MAX - 1), "tar: pax uid"));
      else if (key == "gid") entry.gid = static_cast<uint32_t>(TRY(parse_uint(value, UINT32_MAX - 1), "tar: pax gid"));
      else if (key == "mtime") std::tie(entry.mtime, entry.mtime_ns) = TRY(seconds(value), "tar: pax mtime");
      else if (key.starts_with("SCHILY.xattr.")) entry.xattrs[key.substr(13)] = value;
      else if (key.starts_with("GNU.sparse.")) return fail("tar: " + name + ": sparse files are not supported");
    }
    if (name.find('\0') != std::string::npos || entry.link.find('\0') != std::string::npos) return fail("tar: a name contains a NUL character");
    if (name.size() > limits_.path_bytes || entry.link.size() > limits_.path_bytes) return fail("tar: a name is longer than " + std::to_string(limits_.path_bytes) + " bytes");
    bool trailing_slash = name.ends_with('/');
    entry.path = strip_leading(name);
    while (entry.path.ends_with('/')) entry.path.pop_back();
    switch (header.type) {
      case '0':
      case '\0':
      case '7': entry.type = trailing_slash ? EntryType::directory : EntryType::file; break;
      case '1': entry.type = EntryType::hard_link; break;
      case '2': entry.type = EntryType::symlink; break;
      case '3': entry.type = EntryType::char_device; break;
      case '4': entry.type = EntryType::block_device; break;
      case '5': entry.type = EntryType::directory; break;
      case '6': entry.type = EntryType::fifo; break;
      case 'S': return fail("tar: " + name + ": sparse files are not supported");
      default: return fail("tar: " + name + ": unknown entry type '" + std::string(1, header.type) + "'");
    }
    if (entry.type == EntryType::char_device || entry.type == EntryType::block_device) {
      entry.major = static_cast<uint32_t>(TRY(number(header.major), "tar: major"));
      entry.minor = static_cast<uint32_t>(TRY(number(header.minor), "tar: minor"));
    }
    // Only files have data (POSIX: the size of links is to be ignored).
    if (entry.type == EntryType::file) {
      entry.size = data_size;
      left_ = data_size;
      padding_ = (kBlock - data_size % kBlock) % kBlock;
    }
    entry.offset = position_;
    return true;
  }
}

Result<size_t> TarReader::read_data(char* buffer, size_t size) {
  size = std::min<uint64_t>(size, left_);
  if (size == 0) return size_t{0};
  size_t n = TRY(source_.read(buffer, size));
  if (n == 0) return fail("tar: ends inside an entry (truncated)");
  position_ += n;
  left_ -= n;
  return n;
}

namespace {
void octal(char* field, size_t size, uint64_t value) {
  field[size - 1] = '\0';
  for (size_t i = size - 1; i-- > 0;) {
    field[i] = static_cast<char>('0' + (value & 7));
    value >>= 3;
  }
}

/// Without trailing zeros, as other writers have it.
std::string pax_time(int64_t seconds, uint32_t nanoseconds) {
  std::string fraction = std::to_string(1'000'000'000u + nanoseconds).substr(1);
  fraction.erase(fraction.find_last_not_of('0') + 1);
  return std::to_string(seconds) + "." + fraction;
}

std::string pax_record(const std::string& key, const std::string& value) {
  size_t body = key.size() + value.size() + 3;
  size_t length = body + std::to_string(body).size();
  if (std::to_string(length).size() != std::to_string(body).size()) length = body + std::to_string(length).size();
  return std::to_string(length) + " " + key + "=" + value + "\n";
}
}  // namespace

Result<> TarWriter::header(const TarEntry& entry, char type_flag, std::string_view path, std::string_view link) {
  Header h = {};
  path.copy(h.name, sizeof h.name);
  link.copy(h.link, sizeof h.link);
  octal(h.mode, sizeof h.mode, entry.mode & 07777);
  octal(h.uid, sizeof h.uid, entry.uid & 07777777);
  octal(h.gid, sizeof h.gid, entry.gid & 07777777);
  octal(h.size, sizeof h.size, entry.size & 077777777777);
  octal(h.mtime, sizeof h.mtime, static_cast<uint64_t>(std::max<int64_t>(entry.mtime, 0)) & 077777777777);
  octal(h.major, sizeof h.major, entry.major);
  octal(h.minor, sizeof h.minor, entry.minor);
  h.type = type_flag;
  std::memcpy(h.magic, "ustar", 6);
  std::memcpy(h.version, "00", 2);
  std::memset(h.checksum, ' ', sizeof h.checksum);
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i) sum += reinterpret_cast<unsigned char*>(&h)[i];
  octal(h.checksum, 7, sum);
  h.checksum[6] = '\0';
  return sink_.write(std::string_view(reinterpret_cast<char*>(&h), kBlock));
}

Result<> TarWriter::pad() {
  static const char zeros[kBlock] = {};
  size_t rest = (kBlock - written_ % kBlock) % kBlock;
  written_ = 0;
  return sink_.write(std::string_view(zeros, rest));
}

Result<> TarWriter::add(const TarEntry& entry) {
  TRY(pad());
  std::string path = entry.path;
  char type = '0';
  switch (entry.type) {
    case EntryType::file: type = '0'; break;
    case EntryType::hard_link: type = '1'; break;
    case EntryType::symlink: type = '2'; break;
    case EntryType::char_device: type = '3'; break;
    case EntryType::block_device: type = '4'; break;
    case EntryType::directory:
      type = '5';
      path += "/";
      break;
    case EntryType::fifo: type = '6'; break;
  }
  std::string records;
  if (path.size() > 100) records += pax_record("path", path);
  if (entry.link.size() > 100) records += pax_record("linkpath", entry.link);
  if (entry.uid > 07777777) records += pax_record("uid", std::to_string(entry.uid));
  if (entry.gid > 07777777) records += pax_record("gid", std::to_string(entry.gid));
  if (entry.mtime_ns != 0 && entry.mtime >= 0) records += pax_record("mtime", pax_time(entry.mtime, entry.mtime_ns));
  if (entry.size > 077777777777) records += pax_record("size", std::to_string(entry.size));
  for (const auto& [key, value] : entry.xattrs) records += pax_record("SCHILY.xattr." + key, value);
  if (!records.empty()) {
    TarEntry extra;
    extra.mode = 0644;
    extra.size = records.size();
    TRY(header(extra, 'x', "PaxHeaders/" + path.substr(0, 88), ""));
    TRY(sink_.write(records));
    written_ = records.size();
    TRY(pad());
  }
  TRY(header(entry, type, path.substr(0, 100), std::string_view(entry.link).substr(0, 100)));
  return {};
}

Result<> TarWriter::data(std::string_view bytes) {
  written_ += bytes.size();
  return sink_.write(bytes);
}

Result<> TarWriter::add_file(const TarEntry& entry, std::string_view content) {
  TRY(add(entry));
  return data(content);
}

Result<> TarWriter::finish() {
  TRY(pad());
  static const char zeros[kBlock * 2] = {};
  return sink_.write(std::string_view(zeros, sizeof zeros));
}

}  // namespace caisson::image
