#include <gtest/gtest.h>

#include "base/strings.h"
#include "base/yaml.h"
#include "capture/confinement.h"
#include "capture/discover.h"
#include "capture/plan.h"
#include "capture/recorder.h"
#include "capture/requests.h"
#include "capture/secrets.h"
#include "capture/titles.h"
#include "capture/units.h"
#include "oci/spec.h"
#include "scratch.h"
#include "sys/seccomp.h"

using namespace caisson;
using namespace caisson::capture;

TEST(Yaml, QuotesWhatCouldBeReadOtherwise) {
  Json document{{"name", "web"}, {"port", "8080:80"}, {"truth", "yes"}, {"number", "1.0"}, {"real", 1}, {"empty", Json::object()}, {"none", Json::array()}, {"list", {"a", {{"k", "v: w"}, {"deep", {1, 2}}}}}};
  EXPECT_EQ(yaml_text(document), "name: web\nport: \"8080:80\"\ntruth: \"yes\"\nnumber: \"1.0\"\nreal: 1\nempty: {}\nnone: []\nlist:\n  - a\n  - k: \"v: w\"\n    deep:\n      - 1\n      - 2\n");
  EXPECT_EQ(yaml_text(Json("no")), "\"no\"\n");
  EXPECT_EQ(yaml_text(Json{{"a b", "line\nline"}, {"", nullptr}}), "\"a b\": \"line\\nline\"\n\"\": null\n");
}

TEST(Units, CommandsHaveTheirVariables) {
  Unit unit = parse_unit("[Service]\nType=forking\nUser=web\nEnvironment=A=1 \"B=two words\"\nEnvironment=EMPTY=\nExecStart=-/usr/bin/app $A ${B}x $B $EMPTY \\\n  --name=%n 100%% $$HOME\n", "/lib/systemd/system/app.service");
  EXPECT_EQ(unit.name, "app.service");
  EXPECT_EQ(unit.type, "forking");
  EXPECT_EQ(unit.environment, (std::vector<std::string>{"A=1", "B=two words", "EMPTY="}));
  EXPECT_EQ(unit_command(unit), (std::vector<std::string>{"/usr/bin/app", "1", "two wordsx", "two", "words", "--name=app.service", "100%", "$HOME"}));
}

TEST(Units, InstancesOfTemplatesHaveTheirNames) {
  Unit unit = parse_unit("ExecStart=/bin/%p --cluster %i --at %I -f %f -r %t/x %% %n\nEnvironment=WHO=%i\nRuntimeDirectory=%p-%i\n", "/lib/systemd/system/db@.service", "db@a-b\\x2dc.service");
  EXPECT_EQ(unit_command(unit), (std::vector<std::string>{"/bin/db", "--cluster", "a-bx2dc", "--at", "a/b-c", "-f", "/a/b-c", "-r", "/run/x", "%", "db@a-bx2dc.service"})) << "the words of a command lose their backslashes, as with systemd";
  EXPECT_EQ(unit.runtime_directories, (std::vector<std::string>{"db-a-b\\x2dc"}));
}

TEST(Units, WhatADropInEmptiesBeginsAnew) {
  Unit unit = parse_unit(
      "ExecStart=/bin/old\nExecStartPre=/bin/first\nEnvironment=A=1\nLimitNOFILE=10\nStateDirectory=old\nLogsDirectory=app\n"
      "[Service]\nExecStart=\nExecStart=/bin/new \\\n# between\n  -x\nExecStartPre=\nEnvironment=\nEnvironment=B=2\nLimitNOFILE=\nStateDirectory=\nStateDirectory=new\n",
      "x.service");
  EXPECT_EQ(unit_command(unit), (std::vector<std::string>{"/bin/new", "-x"}));
  EXPECT_TRUE(unit.exec_start_pre.empty());
  EXPECT_EQ(unit.environment, (std::vector<std::string>{"B=2"}));
  EXPECT_TRUE(unit.ulimits.empty());
  EXPECT_EQ(unit.other_directories, (std::vector<std::string>{"/var/lib/new", "/var/log/app"}));
}

TEST(Ulimits, UnitsSayThemInTheirWords) {
  Unit unit = parse_unit("LimitNOFILE=1024:65536\nLimitCORE=infinity\nLimitMEMLOCK=64M\nLimitNPROC=100\nLimitNICE=+5\nLimitCPU=soon\nLimitAS=99999999E\n", "x.service");
  EXPECT_EQ(unit.ulimits, (Ulimits{{"nofile", {1024, 65536}}, {"core", {UINT64_MAX, UINT64_MAX}}, {"memlock", {64u << 20, 64u << 20}}, {"nproc", {100, 100}}, {"nice", {15, 15}}}));
  EXPECT_EQ(json_text(to_json(unit.ulimits)["core"]), R"({"soft":-1,"hard":-1})");
  EXPECT_EQ(to_text("core", {0, UINT64_MAX}), "core=0:-1");
}

TEST(Ulimits, TwoApplicationsHaveTheLarger) {
  Ulimits limits = {{"nofile", {1024, 4096}}, {"core", {0, UINT64_MAX}}};
  merge_limits(limits, {{"nofile", {2048, 2048}}, {"nproc", {10, 20}}});
  EXPECT_EQ(limits, (Ulimits{{"nofile", {2048, 4096}}, {"core", {0, UINT64_MAX}}, {"nproc", {10, 20}}}));
}

TEST(Ulimits, OnlyWhatSomeoneHasSetCounts) {
  Ulimits first = parse_limits("Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1048576              1048576              files     \nMax processes             31000                31000                processes \nMax locked memory         67108864             67108864             bytes     \nMax core file size        0                    unlimited            bytes     \n");
  ASSERT_EQ(first.size(), 4u);
  Ulimits usual{{"nofile", {1024, 524288}}, {"nproc", {31000, 31000}}, {"memlock", {8u << 20, 8u << 20}}, {"core", {0, UINT64_MAX}}};
  EXPECT_TRUE(set_on_purpose(usual, first).empty());
  Ulimits raised = usual;
  raised["nofile"] = {65536, 65536};
  raised["core"] = {UINT64_MAX, UINT64_MAX};
  EXPECT_EQ(set_on_purpose(raised, first), (Ulimits{{"nofile", {65536, 65536}}, {"core", {UINT64_MAX, UINT64_MAX}}}));
}

TEST(Units, EnvironmentFilesAreRead) {
  Scratch scratch;
  std::string file = scratch.path() + "/defaults";
  ASSERT_TRUE(write_file_durably(file, "# a comment\nOPTIONS=\"-v  -x\"\n; another\nPORT=80\nnonsense\n"));
  Unit unit = parse_unit("ExecStart=/bin/app $OPTIONS\nEnvironmentFile=-/nothing/there\nEnvironmentFile=" + file + "\n", "x.service");
  EXPECT_EQ(unit_environment(unit), (std::vector<std::string>{"OPTIONS=-v  -x", "PORT=80"}));
  EXPECT_EQ(unit_command(unit), (std::vector<std::string>{"/bin/app", "-v", "-x"}));
}

TEST(Answers, WhatIsOfTheMomentIsLeftOut) {
  std::string answer = "HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nSet-Cookie: s=1\r\nServer: x\r\n\r\nat 2026-11-21T10:00:00Z on box1 Sat, 21 Nov 2026 10:00:00 GMT";
  EXPECT_EQ(normalised(answer, "box1"), "HTTP/1.1 200 OK\r\nDate\r\nSet-Cookie\r\nServer: x\r\n\r\nat DATE on HOST DATE");
  EXPECT_EQ(normalised("Date: of a text", ""), "Date: of a text") << "no header of HTTP";
  EXPECT_EQ(masked("pid 1234 id deadbeef01 word facade v2"), "pid # id # word facade v#");
}

TEST(Answers, OnlyWhatTheOriginalChangesMayDiffer) {
  EXPECT_TRUE(same_answer("a 1", "a 1", "a 1"));
  EXPECT_FALSE(same_answer("a 1", "a 1", "a 2")) << "the original says the same each time";
  EXPECT_TRUE(same_answer("a 1", "a 2", "a 3"));
  EXPECT_FALSE(same_answer("a 1", "a 2", "b 3"));
  EXPECT_FALSE(same_answer("a x", "a y", "a z")) << "more than numbers changes: nothing can be said";
}

TEST(Discover, RuntimesByName) {
  EXPECT_EQ(runtime_of("/usr/bin/python3.11"), "python");
  EXPECT_EQ(runtime_of("/usr/lib/jvm/java-17/bin/java"), "java");
  EXPECT_EQ(runtime_of("/usr/lib/erlang/erts-13.1/bin/beam.smp"), "erlang");
  EXPECT_EQ(runtime_of("/nothing/there"), "native");
}

TEST(Secrets, TokensByTheirShape) {
  EXPECT_TRUE(holds_token("auth: ghp_" + std::string(36, 'a') + "\n"));
  EXPECT_TRUE(holds_token("key=AKIAIOSFODNN7EXAMPLE"));
  EXPECT_TRUE(holds_token("\"xoxb-123456789012-abcdef\""));
  EXPECT_FALSE(holds_token("ghp_short AKIAlowercase12345678 task_live_x"));
}

TEST(Secrets, LinesThatSetOne) {
  for (const char* line : {"password = hunter22", "DB_PASSWORD=hunter22", "  \"api_key\": \"abcdef\",", "spring.datasource.password: hunter22", "requirepass hunter22", "export APP_SECRET='hunter22'", "$db_password = \"hunter22\";", "'password' => 'hunter22',"})
    EXPECT_TRUE(sets_password(line)) << line;
  for (const char* line : {"# password = hunter22", "; password = hunter22", "password_encryption = scram-sha-256", "ssl_password_file = /etc/x", "password=${DB_PASSWORD}", "password = /run/secrets/db", "password requisite pam_deny.so", "password: <%= x %>", "password =", "# requirepass foobared", "passwd: files systemd", "token = true"})
    EXPECT_FALSE(sets_password(line)) << line;
}

TEST(Secrets, AddressesWithAPassword) {
  EXPECT_TRUE(holds_address_with_password("url: postgres://shop:hunter22@db.internal/shop"));
  EXPECT_TRUE(holds_address_with_password("amqp://u:pass@[::1]:5672"));
  for (const char* line : {"http://host:8080/a@b", "# postgres://a:bcd@c", "https://example.org/x:y@z", "postgres://shop:${PASS}@db", "time 10:20:30 a@b"}) EXPECT_FALSE(holds_address_with_password(line)) << line;
}

TEST(Secrets, SettingsOnly) {
  Scratch scratch;
  std::string file = scratch.path() + "/f";
  ASSERT_TRUE(write_file_durably(file, "password = hunter22\n", 0644));
  EXPECT_NE(secret_reason("/etc/shop/shop.conf", file), "");
  EXPECT_NE(secret_reason("/srv/shop/.env", file), "");
  EXPECT_EQ(secret_reason("/srv/shop/login.py", file), "") << "source text";
  EXPECT_EQ(secret_reason("/usr/share/shop/defaults.conf", file), "") << "a package's";
}

TEST(Answers, ARandomPartIsForgiven) {
  std::string greeting = "5.5.5-10.11.19-MariaDB-0+deb12u1 ", end = " mysql_native_password";
  EXPECT_TRUE(same_answer(greeting + "aK!x9" + end, greeting + "Zq#1~" + end, greeting + "p0+eW" + end));
  EXPECT_FALSE(same_answer(greeting + "aK!x9" + end, greeting + "Zq#1~" + end, greeting + "p0+eW" + " caching_sha2_password")) << "what both have is missing";
  EXPECT_FALSE(same_answer(greeting + "aK!x9" + end, greeting + "Zq#1~" + end, greeting + end + std::string(60, 'x'))) << "much longer";
  EXPECT_FALSE(same_answer("key=" + std::string(40, 'a'), "key=" + std::string(40, 'b'), "key=" + std::string(40, 'c'))) << "more than half changes";
}

TEST(Yaml, ReadsWhatItWrites) {
  Json document{{"name", "web"}, {"port", "8080:80"}, {"truth", "yes"}, {"on", true}, {"none", nullptr}, {"number", 12}, {"real", 1.5}, {"list", {"a", {{"k", "v: w"}}}}, {"empty", Json::object()}};
  EXPECT_EQ(parse_yaml(yaml_text(document), "x").value(), document);
  EXPECT_EQ(parse_yaml("a: [1, '1', 0x, -2, 1e3, .5, 1.2.3, ~, Null, nulls]\n# comment\n", "x").value(), (Json{{"a", {1, "1", "0x", -2, 1000.0, 0.5, "1.2.3", nullptr, nullptr, "nulls"}}}));
  EXPECT_EQ(parse_yaml("", "x").value(), Json());
  for (const char* bad : {"a: 1\na: 2", "a: [", "? [a]\n: 1", "a: !!int 1", "--- a\n--- b", "&a b", "*a", "\t- a: b", "a: \"\xff\""}) EXPECT_FALSE(parse_yaml(bad, "x")) << bad;
  EXPECT_NE(parse_yaml("a: 1\nb: [\n", "file.yaml").error().message.find("file.yaml: line 3, column 1"), std::string::npos);
}

TEST(Titles, TellTheCommand) {
  auto command = [](const std::string& title, const std::string& exe, const std::string& script, std::set<Port> ports = {}) {
    ProcessInfo p;
    p.title = title;
    p.exe = exe;
    p.script = script;
    return join(command_in_title(p, ports).value_or(std::vector<std::string>{"none"}), "|");
  };
  EXPECT_EQ(command("nginx: master process /usr/sbin/nginx -g daemon on; master_process on;", "/usr/sbin/nginx", ""), "/usr/sbin/nginx|-g|daemon on; master_process on;");
  EXPECT_EQ(command("nginx: master process nginx -g daemon on; -c /etc/n.conf", "/usr/sbin/nginx", ""), "/usr/sbin/nginx|-g|daemon on;|-c|/etc/n.conf");
  EXPECT_EQ(command("php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)", "/usr/sbin/php-fpm8.2", ""), "/usr/sbin/php-fpm8.2|--nodaemonize|--fpm-config|/etc/php/8.2/fpm/php-fpm.conf");
  EXPECT_EQ(command("puma 5.6.5 (tcp://0.0.0.0:9292,unix:///run/p) [shop]", "/usr/bin/ruby", "/usr/bin/puma"), "/usr/bin/puma|-b|tcp://0.0.0.0:9292|-b|unix:///run/p");
  EXPECT_EQ(command("gunicorn: master [app:app]", "/usr/bin/python3", "/usr/bin/gunicorn", {{8000, "tcp", "::1"}}), "/usr/bin/gunicorn|-b|[::1]:8000|app:app");
  EXPECT_EQ(command("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "/usr/sbin/sshd", ""), "/usr/sbin/sshd|-D");
  EXPECT_EQ(command("puma 5.6.5 (tcp://0.0.0.0:9292) [shop]", "/usr/bin/ruby", ""), "none") << "its script is not known";
  EXPECT_EQ(command("something else", "/bin/x", ""), "none");
}

TEST(Confinement, KeepsWhatWasSeen) {
  KernelUse use{.known = true, .calls = {sys::system_call_number("read"), sys::system_call_number("setgid"), sys::system_call_number("bind")}, .capabilities_known = true, .capabilities = {oci::capability_number("CAP_SETUID"), oci::capability_number("CAP_SYS_ADMIN")}};
  EXPECT_EQ(needed_capabilities(use), std::vector<std::string>{"CAP_SETUID"}) << "never more than the default ones";
  std::set<std::string> allowed;
  const Json profile = seccomp_profile(use);
  for (const auto& rule : profile["syscalls"])
    if (rule["action"] == "SCMP_ACT_ALLOW")
      for (const auto& name : rule["names"]) allowed.insert(name.get<std::string>());
  EXPECT_TRUE(allowed.contains("read") && allowed.contains("setuid") && allowed.contains("openat")) << "siblings, and what stands in no group";
  EXPECT_FALSE(allowed.contains("msgget") || allowed.contains("chown") || allowed.contains("chroot") || allowed.contains("mount"));
  use.capabilities_known = false;
  EXPECT_EQ(needed_capabilities(use), (std::vector<std::string>{"CAP_NET_BIND_SERVICE", "CAP_SETGID"})) << "what the calls may have needed";
}

TEST(Recorder, SegmentsMayComeInAnyOrder) {
  Conversation talk;
  talk.from_client(0xfffffffeu, "", true);  // the numbers wrap
  talk.from_server(100, "", true);
  talk.from_client(3, "c", false);
  talk.from_client(0xffffffffu, "ab", false);
  EXPECT_FALSE(talk.whole());
  talk.from_client(1, "12", false);
  talk.from_client(0xffffffffu, "ab12", false);  // once more
  talk.from_server(101, "yes", false);
  talk.from_client(4, "bye", false);
  ASSERT_TRUE(talk.whole());
  ASSERT_EQ(talk.turns().size(), 2u);
  EXPECT_EQ(talk.turns()[0].said, "ab12c");
  EXPECT_EQ(talk.turns()[0].heard, "yes");
  EXPECT_EQ(talk.turns()[1].said, "bye");
}

TEST(Recorder, OnlySafeRequestsAreAskedAgain) {
  Conversation talk;
  uint32_t client = 1, server = 1;
  auto turn = [&](const std::string& said, const std::string& heard) {
    talk.from_client(client, said, false);
    talk.from_server(server, heard, false);
    client += static_cast<uint32_t>(said.size());
    server += static_cast<uint32_t>(heard.size());
  };
  turn("GET /a?token=x HTTP/1.1\r\nHost: shop\r\n\r\n", "one");
  turn("POST /order HTTP/1.1\r\nContent-Length: 2\r\n\r\nok", "two");
  turn("GET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n", "two answers");
  turn("GET /body HTTP/1.1\r\nContent-Length: 3\r\n\r\n123", "three");
  turn("GET /socket HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "four");
  turn("HEAD /d HTTP/1.0\r\n\r\n", "five");
  turn("GET /unanswered HTTP/1.1\r\n\r\n", "");
  auto safe = safe_requests(talk);
  ASSERT_EQ(safe.size(), 2u);
  EXPECT_EQ(safe[0].said, "GET /a?token=x HTTP/1.1\r\nHost: shop\r\n\r\n");
  EXPECT_EQ(safe[0].heard, "one");
  EXPECT_EQ(safe[1].heard, "five");
  EXPECT_EQ(request_title(safe[0].said), "GET /a?…");
}
