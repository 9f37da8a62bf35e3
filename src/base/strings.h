// Small text helpers: splitting, strict numbers, sizes, durations, random ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace caisson {

/// Splits at each separator; empty pieces are kept unless `skip_empty`.
[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator, bool skip_empty = false);
[[nodiscard]] std::string_view trim(std::string_view text);
[[nodiscard]] std::string lower_case(std::string_view text);  ///< of ASCII
/// What a terminal may be shown: UTF-8 without control characters but newline and tab; the rest
/// as "\xHH". For text that strangers have a part in.
[[nodiscard]] std::string printable(std::string_view text);
[[nodiscard]] std::string join(const std::vector<std::string>& parts, std::string_view separator);

/// Decimal digits only: no sign, no spaces, no overflow.
[[nodiscard]] Result<uint64_t> parse_uint(std::string_view text, uint64_t max = UINT64_MAX);
/// Bytes with Docker's suffixes: 512, 64k, 32m, 1g (powers of 1024), "b" allowed.
[[nodiscard]] Result<uint64_t> parse_size(std::string_view text);
/// Non-negative decimal fraction such as "0.5" (for --cpus).
[[nodiscard]] Result<double> parse_decimal(std::string_view text);

/// 2 × `bytes` hexadecimal digits from the kernel's random source.
[[nodiscard]] std::string random_hex(size_t bytes);
[[nodiscard]] std::string to_hex(std::string_view bytes);
/// The lowest bytes of a number, the lowest first.
[[nodiscard]] std::string little_endian(uint64_t number, int bytes);

/// Seconds and nanoseconds since the epoch, as RFC 3339 in UTC.
[[nodiscard]] std::string rfc3339(int64_t seconds, long nanoseconds = 0);
[[nodiscard]] std::string rfc3339_now();
/// Seconds since the epoch of an RFC 3339 text; 0 where it is not one.
[[nodiscard]] int64_t parse_rfc3339(std::string_view text);
/// "3 minutes", "2 hours", as the listings show ages.
[[nodiscard]] std::string human_duration(int64_t seconds);
/// "12.3MB" in powers of 1000, as Docker shows image sizes.
[[nodiscard]] std::string human_size(uint64_t bytes);

/// Collapses "//", "." and ".." lexically; the result is absolute.
[[nodiscard]] std::string clean_path(std::string_view path);
[[nodiscard]] std::string_view base_name(std::string_view path);
[[nodiscard]] std::string dir_name(std::string_view path);

}  // namespace caisson
