#include <gtest/gtest.h>
#include <unistd.h>

#include "capture/entry_point.h"
#include "capture/file_set.h"
#include "engine/config.h"
#include "engine/containers.h"
#include "engine/spec_builder.h"
#include "network/network.h"
#include "network/resolver.h"
#include "scratch.h"
#include "sys/mount.h"
#include "sys/user_db.h"

namespace caisson {
namespace {

TEST(Ports, ReadsDockersForms) {
  auto one = engine::parse_port("8080:80");
  ASSERT_TRUE(one);
  EXPECT_EQ((*one)[0].host_port, 8080);
  EXPECT_EQ((*one)[0].container_port, 80);
  EXPECT_EQ((*engine::parse_port("80"))[0].host_port, 0);
  EXPECT_EQ((*engine::parse_port("127.0.0.1:53:53/udp"))[0].protocol, "udp");
  EXPECT_EQ((*engine::parse_port("127.0.0.1::80"))[0].host_ip, "127.0.0.1");
  EXPECT_EQ((*engine::parse_port("[::1]:8080:80"))[0].host_ip, "::1");
  EXPECT_EQ(engine::parse_port("8000-8002:80-82")->size(), 3u);
  for (const char* bad : {"", "0", "x", "70000", "1:2:3:4", "8000-8001:80", "80/sctp", "80:-1", "8080:80:"}) EXPECT_FALSE(engine::parse_port(bad)) << bad;
}

TEST(Volumes, ReadsDockersForms) {
  EXPECT_EQ(engine::parse_volume("/a:/b:ro")->type, "bind");
  EXPECT_EQ(engine::parse_volume("data:/b")->type, "volume");
  EXPECT_EQ(engine::parse_volume("/b")->target, "/b");
  for (const char* bad : {"", ":", "a:b", "/a:/b:what", "/a:/", "/a:/b:ro:x"}) EXPECT_FALSE(engine::parse_volume(bad)) << bad;
}

TEST(Capabilities, AddAndDropInDockersOrder) {
  engine::ContainerConfig c;
  c.cap_drop = {"ALL"};
  c.cap_add = {"NET_BIND_SERVICE"};
  EXPECT_EQ(*engine::effective_capabilities(c), std::vector<std::string>{"CAP_NET_BIND_SERVICE"});
  c.cap_add = {"MOON"};
  EXPECT_FALSE(engine::effective_capabilities(c));
  EXPECT_EQ(engine::effective_capabilities({})->size(), 11u);
}

TEST(ContainerConfig, SurvivesWritingAndReading) {
  engine::ContainerConfig c;
  c.id = "1";
  c.name = "web";
  c.args = {"a", "b"};
  c.ports = {{"", 80, 81, "tcp"}};
  c.start = {{{"x"}, "u", "/", 5, true}};
  c.limits.memory = 1 << 20;
  c.limits.cpus = 0.5;
  c.restart = {"on-failure", 3};
  Json once = engine::to_json(c);
  auto again = engine::parse_container_config(once, "c");
  ASSERT_TRUE(again);
  EXPECT_EQ(engine::to_json(*again), once);
}

TEST(Containers, NamesAreUniqueAndSweptWhenLeftAlone) {
  Scratch dir;
  engine::Containers containers(dir.path(), dir / "run");
  engine::ContainerConfig c;
  c.id = std::string(64, 'a');
  c.name = "web";
  {
    auto lock = containers.lock();
    ASSERT_TRUE(containers.add(c, {}));
    engine::ContainerConfig second = c;
    second.id = std::string(64, 'b');
    auto refused = containers.add(second, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EEXIST);
  }
  EXPECT_EQ(containers.find("web")->config.id, c.id);
  EXPECT_EQ(containers.find("aaaa")->config.id, c.id);
  EXPECT_FALSE(containers.find("../" + c.id));
  // What a kill between two steps leaves.
  ASSERT_EQ(::symlink("../nowhere", (dir / "containers/by-name/ghost").c_str()), 0);
  ASSERT_TRUE(make_dirs(dir / "containers/tmp.dead"));
  containers.sweep();
  EXPECT_FALSE(exists(dir / "containers/by-name/ghost"));
  EXPECT_FALSE(exists(dir / "containers/tmp.dead"));
  EXPECT_TRUE(containers.find("web"));
}

TEST(Leases, NoAddressTwice) {
  Scratch dir;
  network::Networks networks(dir.path());
  auto net = networks.create("n", "10.250.1.0/29", false);
  ASSERT_TRUE(net) << net.error().message;
  std::set<std::string> seen;
  for (int i = 0; i < 5; ++i) {
    auto e = networks.lease(*net, "c" + std::to_string(i), "", "");
    ASSERT_TRUE(e) << e.error().message;
    EXPECT_TRUE(seen.insert(e->ip).second) << e->ip;
    EXPECT_NE(e->ip, "10.250.1.1") << "the gateway's";
  }
  EXPECT_EQ(networks.lease(*net, "late", "", "").error().code, EADDRNOTAVAIL);
  auto taken = networks.lease(*net, "late", "10.250.1.3", "");
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, EADDRINUSE);
  EXPECT_FALSE(networks.lease(*net, "late", "10.9.9.9", "")) << "outside the subnet";
  networks.release("n", "10.250.1.3", "someone else");
  EXPECT_FALSE(networks.lease(*net, "late", "10.250.1.3", "")) << "only its owner gives it back";
  for (const auto& [ip, owner] : networks.leases("n"))
    if (ip == "10.250.1.3") networks.release("n", ip, owner);
  EXPECT_TRUE(networks.lease(*net, "late", "10.250.1.3", ""));
}

TEST(Network, ParsesAndRefuses) {
  EXPECT_TRUE(network::parse_subnet4("10.1.0.0/24"));
  for (const char* bad : {"10.1.0.1/24", "10.1.0.0", "10.1.0.0/33", "x/24", "10.1.0.0/31"}) EXPECT_FALSE(network::parse_subnet4(bad)) << bad;
  EXPECT_TRUE(network::check_mac("02:42:ac:11:00:02"));
  for (const char* bad : {"", "02:42", "01:00:00:00:00:00", "02-42-ac-11-00-02", "02:42:ac:11:00:0g"}) EXPECT_FALSE(network::check_mac(bad)) << bad;
}

TEST(Resolver, AnswersForContainersAndPassesTheRestOn) {
  auto query = [](const std::string& name, uint16_t type) {
    std::string q("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", 12);
    size_t start = 0;
    for (;;) {
      size_t dot = name.find('.', start);
      std::string label = name.substr(start, dot == std::string::npos ? dot : dot - start);
      q += static_cast<char>(label.size()) + label;
      if (dot == std::string::npos) break;
      start = dot + 1;
    }
    q += '\0';
    q += static_cast<char>(type >> 8);
    q += static_cast<char>(type);
    q += std::string("\x00\x01", 2);
    return q;
  };
  auto lookup = [](const std::string& name) -> std::optional<network::Addresses> {
    if (name == "web") return network::Addresses{"10.0.0.7", "fd00::7"};
    return {};
  };
  auto reverse = [](const std::string& ip) { return ip == "10.0.0.7" ? std::string("web") : std::string(); };
  std::string a = network::Resolver::answer(query("WEB", 1), lookup, reverse);
  ASSERT_GT(a.size(), 16u);
  EXPECT_EQ(a.substr(0, 2), "\x12\x34");
  EXPECT_EQ(a.substr(a.size() - 4), std::string("\x0a\x00\x00\x07", 4));
  EXPECT_EQ(network::Resolver::answer(query("web", 28), lookup, reverse).size(), a.size() + 12);
  EXPECT_EQ(network::Resolver::answer(query("web", 15), lookup, reverse)[7], 0) << "no data of that type, yet no error";
  EXPECT_NE(network::Resolver::answer(query("7.0.0.10.in-addr.arpa", 12), lookup, reverse).find("web"), std::string::npos);
  EXPECT_TRUE(network::Resolver::answer(query("example.org", 1), lookup, reverse).empty());
  for (size_t cut = 0; cut < a.size(); ++cut) (void)network::Resolver::answer(a.substr(0, cut), lookup, reverse);
  std::string endless("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", 18);
  EXPECT_TRUE(network::Resolver::answer(endless, lookup, reverse).empty());
}

TEST(UserDb, ReadsNamesNumbersAndGroups) {
  Scratch dir;
  ASSERT_TRUE(make_dirs(dir / "etc"));
  ASSERT_TRUE(replace_file(dir / "etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:33:34::/srv:/bin/sh\n", 0644));
  ASSERT_TRUE(replace_file(dir / "etc/group", "app:x:34:\nssl:x:50:app,other\n", 0644));
  auto root = sys::RootDir::open(dir.path());
  auto app = sys::resolve_user(*root, "app");
  ASSERT_TRUE(app);
  EXPECT_EQ(app->uid, 33u);
  EXPECT_EQ(app->gid, 34u);
  EXPECT_EQ(app->groups, std::vector<uint32_t>{50});
  EXPECT_EQ(sys::resolve_user(*root, "33")->home, "/srv");
  EXPECT_EQ(sys::resolve_user(*root, "7")->uid, 7u);
  EXPECT_EQ(sys::resolve_user(*root, "app:ssl")->gid, 50u);
  // CVE-2026-30892, CVE-2024-40635: nothing of this may become root.
  for (const char* bad : {"nobody-here", "2147483648", "4294967295", "-1", "1x", " 1", ":", "1:", ":1", "1:1:1"}) EXPECT_FALSE(sys::resolve_user(*root, bad)) << bad;
}

TEST(UserDb, HostileFilesDoNotHang) {
  Scratch dir;
  ASSERT_TRUE(make_dirs(dir / "etc"));
  ASSERT_EQ(::mkfifo((dir / "etc/passwd").c_str(), 0666), 0);
  auto root = sys::RootDir::open(dir.path());
  EXPECT_FALSE(sys::resolve_user(*root, "app"));
  ::unlink((dir / "etc/passwd").c_str());
  ASSERT_EQ(::symlink("/etc/shadow", (dir / "etc/passwd").c_str()), 0);
  EXPECT_FALSE(sys::resolve_user(*root, "root2")) << "the link stays inside, where nothing is";
  ::unlink((dir / "etc/passwd").c_str());
  ASSERT_TRUE(replace_file(dir / "etc/passwd", std::string(2 << 20, 'x'), 0644));
  EXPECT_FALSE(sys::resolve_user(*root, "app"));
}

TEST(RootDir, NoLinkLeadsOut) {
  Scratch dir;
  ASSERT_TRUE(make_dirs(dir / "root"));
  ASSERT_TRUE(replace_file(dir / "secret", "x"));
  ASSERT_EQ(::symlink("../secret", (dir / "root/up").c_str()), 0);
  ASSERT_EQ(::symlink("/secret", (dir / "root/abs").c_str()), 0);
  ASSERT_EQ(::symlink("/etc", (dir / "root/etc").c_str()), 0);
  auto root = sys::RootDir::open(dir / "root");
  EXPECT_FALSE(root->open_at("/up", O_RDONLY));
  EXPECT_FALSE(root->open_at("/abs", O_RDONLY));
  EXPECT_FALSE(root->open_at("/../secret", O_RDONLY));
  EXPECT_FALSE(root->make_dirs("/etc/made")) << "a dangling link is no folder";
  EXPECT_FALSE(exists("/etc/made"));
}

TEST(MountOptions, FollowTheSpecification) {
  auto o = sys::parse_mount_options({"rbind", "ro", "nosuid", "rprivate", "size=5", "rnoexec"});
  EXPECT_TRUE(o.bind && o.recursive);
  EXPECT_EQ(o.data, "size=5");
  EXPECT_NE(o.rec_set, 0u);
  EXPECT_EQ(sys::parse_mount_options({"ro", "rw"}).flags, 0u);
}

TEST(CaptureEntry, SplitsCommandsAsSystemdDoes) {
  EXPECT_EQ(capture::split_command("/usr/sbin/nginx -g 'daemon on; master_process on;'"), (std::vector<std::string>{"/usr/sbin/nginx", "-g", "daemon on; master_process on;"}));
  EXPECT_EQ(capture::split_command(R"(a "b c" d\ e "")"), (std::vector<std::string>{"a", "b c", "d e", ""}));
}

TEST(CaptureEntry, ReadsUnits) {
  auto unit = capture::parse_unit("[Service]\nType=notify\nExecStart=-/usr/bin/redis-server \\\n  /etc/redis/redis.conf\nUser=redis\nRuntimeDirectory=redis other\n", "u");
  EXPECT_EQ(unit.user, "redis");
  EXPECT_EQ(capture::split_command(unit.exec_start), (std::vector<std::string>{"/usr/bin/redis-server", "/etc/redis/redis.conf"}));
  EXPECT_EQ(unit.runtime_directories.size(), 2u);
}

TEST(CaptureEntry, DaemonsStayInTheForeground) {
  capture::EntryPoint nginx{.argv = {"/usr/sbin/nginx", "-g", "daemon on; user x;"}};
  capture::keep_in_foreground(nginx);
  EXPECT_EQ(nginx.argv.back(), "daemon off; user x;");
  capture::EntryPoint other{.argv = {"/usr/bin/thing"}};
  capture::keep_in_foreground(other);
  EXPECT_EQ(other.argv.size(), 1u);
}

TEST(CaptureEntry, SecretsAndSessionsStayOutOfTheEnvironment) {
  capture::EntryPoint e{.env = {"PATH=/bin", "DB_PASSWORD=x", "SSH_CLIENT=y", "LANG=C", "AWS_SECRET_ACCESS_KEY=z"}};
  capture::clean_environment(e);
  EXPECT_EQ(e.env, (std::vector<std::string>{"PATH=/bin", "LANG=C"}));
  EXPECT_EQ(e.secret_variables.size(), 2u);
}

TEST(CaptureSecrets, AreRecognised) {
  Scratch dir;
  ASSERT_TRUE(replace_file(dir / "server.key", "-----BEGIN RSA PRIVATE KEY-----\nabc\n" + std::string(64, 'x'), 0600));
  ASSERT_TRUE(replace_file(dir / "plain.conf", "nothing to see here, nothing at all", 0644));
  EXPECT_NE(capture::secret_reason(dir / "server.key", dir / "server.key"), "");
  EXPECT_EQ(capture::secret_reason(dir / "plain.conf", dir / "plain.conf"), "");
  EXPECT_NE(capture::secret_reason("/etc/shadow", "/etc/shadow"), "");
  EXPECT_NE(capture::secret_reason("/home/x/.pgpass", "/nonexistent"), "");
  capture::FileSet files;
  EXPECT_EQ(files.add(dir / "server.key", "test", "test"), "");
  ASSERT_EQ(files.secrets().size(), 1u);
  capture::FileSet allowed;
  allowed.allow_secret(dir / "server.key");
  EXPECT_NE(allowed.add(dir / "server.key", "test", "test"), "");
}

TEST(CaptureFiles, LinksAndLibrariesComeAlong) {
  capture::FileSet files;
  ASSERT_NE(files.add("/bin/sh", "test", "the shell"), "");
  EXPECT_TRUE(files.has("/bin")) << "the link of the merged /usr";
  EXPECT_TRUE(files.has("/usr/bin/sh"));
  EXPECT_TRUE(files.has("/usr/bin/dash")) << "what the link names";
  bool loader = false, libc = false;
  for (const auto& [path, item] : files.items()) {
    loader |= path.find("ld-linux") != std::string::npos;
    libc |= path.ends_with("/libc.so.6");
    EXPECT_FALSE(item.reason.empty()) << path;
  }
  EXPECT_TRUE(loader && libc);
  EXPECT_EQ(files.add("/boot", "test", "a kernel"), "");
  EXPECT_EQ(files.add("/proc/version", "test", "a kernel"), "");
}

}  // namespace
}  // namespace caisson
