#include "elements/elements.h"

#include <gtest/gtest.h>

#include "base/fd.h"
#include "elements/embedded.h"
#include "scratch.h"

using namespace caisson;
using namespace caisson::elements;

namespace {
constexpr Moment kNow{1'800'000'000'000'000'000, 5'000'000'000, 7'000'000'000};

std::string clock(const std::string& options) { return clock_settings(options, kNow, {}).value_or("-"); }
bool has(const std::string& text, const std::string& line) { return text.find(line + "\n") != std::string::npos; }
}  // namespace

TEST(ClockSettings, MomentsAndSpans) {
  EXPECT_TRUE(has(clock("2027-03-01T00:00:00Z"), "wall_shown 1803859200000000000"));
  EXPECT_TRUE(has(clock("2027-03-01"), "wall_shown 1803859200000000000"));
  EXPECT_TRUE(has(clock("@5"), "wall_shown 5000000000"));
  EXPECT_TRUE(has(clock("1970-01-01T00:00:00Z"), "wall_shown 0"));
  EXPECT_TRUE(has(clock("+1d2h3m4s"), "wall_shown 1800093784000000000"));
  EXPECT_TRUE(has(clock("-1w"), "wall_shown 1799395200000000000"));
  EXPECT_TRUE(has(clock(""), "wall_shown 1800000000000000000"));
  EXPECT_TRUE(has(clock(""), "rate 4294967296"));
}

TEST(ClockSettings, RatesAndFlags) {
  std::string text = clock("rate=0.5,monotonic,files");
  for (const char* line : {"rate 2147483648", "inverse 8589934592", "monotonic 1", "files 1", "fixed 0", "monotonic_base 5000000000", "boot_base 7000000000"}) EXPECT_TRUE(has(text, line)) << line;
  oci::Spec spec;
  spec.linux.time_offsets["monotonic"] = {100, 5};
  EXPECT_TRUE(has(clock_settings("+1s", kNow, spec).value_or(""), "monotonic_base 105000000005")) << "as its time namespace shows it";
}

TEST(ClockSettings, WhatIsNone) {
  for (const char* text : {"tomorrow", "+", "+d", "+5", "+5q", "-99999y", "@", "@-5", "2027-13-01", "3000-01-01", "rate=0", "rate=1001", "rate=x", "fixed,rate=2", "+1s,+2s", "+1s,,fixed", "rate=2,2027-01-01", "-60y"}) EXPECT_EQ(clock(text), "-") << text;
}

TEST(NetworkSettings, AreAddressesInDigits) {
  Place place{"10.88.0.5", "fd00::5", "10.88.0.1", "", "02:aa:bb:cc:dd:ee", 16};
  std::string text = network_settings("delay=20,loss=0.5", place).value_or("");
  for (const char* line : {"address 0a580005", "gateway 0a580001", "address6 fd000000000000000000000000000005", "mac 02aabbccddee", "prefix 16", "delay 20", "loss 5000"}) EXPECT_TRUE(has(text, line)) << line;
  EXPECT_FALSE(has(text, "gateway6 ")) << "an internal network has none";
  for (const char* bad : {"fast", "delay=", "delay=-1", "delay=10001", "delay=1ms", "loss=101", "loss=-1", "loss=x"}) EXPECT_FALSE(network_settings(bad, place)) << bad;
  place.address = "10.88.0";
  EXPECT_FALSE(network_settings("", place));
}

TEST(Selections, AreCheckedWhenTheyAreRead) {
  EXPECT_EQ(parse_selection("clock=+1d").value_or(Selection{}).options, "+1d");
  EXPECT_EQ(parse_selection("resources").value_or(Selection{}).name, "resources");
  EXPECT_FALSE(parse_selection("resources=x"));
  EXPECT_FALSE(parse_selection("clock=x"));
  EXPECT_FALSE(parse_selection(""));
  oci::Spec spec;
  spec.annotations = {{"io.caisson.element.resources", ""}, {"io.caisson.element.clock", "+1d"}, {"other", "x"}};
  auto found = from_annotations(spec);
  ASSERT_TRUE(found && found->size() == 2);
  EXPECT_EQ((*found)[0].name + (*found)[0].options, "clock+1d");
}

TEST(Injection, AddsMountsAndKeepsTheImagesOwn) {
  Scratch scratch;
  ASSERT_TRUE(make_dirs(scratch.path() + "/root/etc"));
  ASSERT_TRUE(replace_file(scratch.path() + "/root/etc/ld.so.preload", "/lib/own.so\n"));
  auto root = sys::RootDir::open(scratch.path() + "/root");
  ASSERT_TRUE(root);
  oci::Spec spec;
  spec.process.emplace().args = {"/bin/app"};
  ASSERT_TRUE(inject({{"clock", "+1d"}, {"resources", ""}}, {scratch.path() + "/libraries", scratch.path() + "/settings", true}, *root, kNow, spec));
  ASSERT_EQ(spec.mounts.size(), 3u);
  for (const auto& mount : spec.mounts) EXPECT_NE(std::find(mount.options.begin(), mount.options.end(), "ro"), mount.options.end()) << mount.destination;
  EXPECT_EQ(read_file(scratch.path() + "/settings/ld.so.preload").value_or(""), "/.caisson/lib/libcaisson-clock.so\n/.caisson/lib/libcaisson-resources.so\n/lib/own.so\n");
  EXPECT_EQ(read_file(spec.mounts[0].source + "/libcaisson-clock.so", 1u << 20).value_or(""), library("clock"));
  EXPECT_TRUE(spec.process->env.empty()) << "glibc needs no variable";
  // musl does, once.
  ASSERT_TRUE(make_dirs(scratch.path() + "/root/lib"));
  ASSERT_TRUE(replace_file(scratch.path() + "/root/lib/ld-musl-x86_64.so.1", ""));
  std::vector<std::string> env{"LD_PRELOAD=/own.so"};
  add_environment({{"clock", ""}}, *root, env);
  add_environment({{"clock", ""}}, *root, env);
  EXPECT_EQ(env, std::vector<std::string>{"LD_PRELOAD=/.caisson/lib/libcaisson-clock.so:/own.so"});
}

TEST(Programs, StaticOnesAreTold) {
  auto host = sys::RootDir::open("/");
  ASSERT_TRUE(host);
  const std::vector<Selection> clock{{"clock", ""}}, network{{"network", ""}}, both{{"clock", ""}, {"network", ""}};
  EXPECT_EQ(why_not_linkable(clock, *host, "/bin/sh", {}), "");
  EXPECT_EQ(why_not_linkable(clock, *host, "sh", {"PATH=/usr/bin"}), "");
  EXPECT_NE(why_not_linkable(clock, *host, "/bin/busybox", {}).find("static"), std::string::npos);
  EXPECT_EQ(why_not_linkable(network, *host, "/bin/busybox", {}), "") << "its calls are answered beside it";
  EXPECT_NE(why_not_linkable(both, *host, "/bin/busybox", {}).find("static"), std::string::npos);
  EXPECT_FALSE(lies_among_libraries(*host, "/bin/busybox", {}));
  EXPECT_FALSE(lies_among_libraries(*host, "/bin/sh", {}));
  EXPECT_TRUE(lies_among_libraries(*host, "/lib64/ld-linux-x86-64.so.2", {}));
  Scratch scratch;
  ASSERT_TRUE(replace_file(scratch.path() + "/script", "#!/bin/busybox sh\n"));
  EXPECT_NE(why_not_linkable(clock, *host, scratch.path() + "/script", {}).find("/bin/busybox is a static"), std::string::npos);
  ASSERT_TRUE(replace_file(scratch.path() + "/loop", "#!" + scratch.path() + "/loop\n"));
  EXPECT_EQ(why_not_linkable(clock, *host, scratch.path() + "/loop", {}), "") << "that it cannot run is for others to say";
}
