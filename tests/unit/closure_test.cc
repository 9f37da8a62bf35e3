// The rules of a capture, each for itself: on files of this machine that every Debian has, and on
// folders, programs and packages made for the test.
#include "capture/closure.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/strings.h"
#include "capture/closure_internal.h"
#include "scratch.h"

namespace caisson::capture {
namespace {

class Rules : public ::testing::Test {
 protected:
  /// A file below the scratch folder, with its folders.
  std::string make(const std::string& name, const std::string& content = "x", mode_t mode = 0644) {
    std::string path = scratch / name;
    EXPECT_TRUE(make_dirs(dir_name(path)));
    EXPECT_TRUE(write_file_durably(path, content, mode));
    return path;
  }
  std::string link(const std::string& name, const std::string& to) {
    EXPECT_EQ(::symlink(to.c_str(), (scratch / name).c_str()), 0);
    return scratch / name;
  }
  /// An entry of dpkg's database of the test.
  void package(const std::string& name, const std::vector<std::string>& files) {
    std::string list;
    for (const auto& f : files) list += f + "\n";
    make("dpkg/info/" + name + ".list", list);
    packages = Packages::read(scratch / "dpkg");
  }
  void saw(const std::string& path, unsigned use = kRead) { trace.paths[path] |= use; }
  void runs(const std::string& exe) {
    processes.emplace_back();
    processes.back().pid = 77;
    processes.back().exe = exe;
  }
  [[nodiscard]] ClosureInput in() const { return {&trace, &processes, &entry, &state_folders, &packages}; }
  std::string rule_of(const std::string& path) { return files.has(path) ? files.items()[path].rule : ""; }
  std::string reason_of(const std::string& path) { return files.has(path) ? files.items()[path].reason : ""; }
  bool warned(const std::string& part) {
    auto all = files.warnings();
    return std::any_of(all.begin(), all.end(), [&](const std::string& w) { return w.find(part) != std::string::npos; });
  }

  Scratch scratch;
  Trace trace;
  std::vector<ProcessInfo> processes;
  EntryPoint entry;
  StateFolders state_folders;
  Packages packages;
  FileSet files;
};

TEST_F(Rules, EveryLinkOnTheWayIsTaken) {
  std::string file = make("real/inner/file");
  std::string folder = link("first", "real"), second = link("second", scratch / "first/inner"), last = link("last", "second/file");
  saw(last);
  add_traced_files(files, in());
  for (const auto& part : {file, folder, second, last, scratch / "real", scratch / "real/inner"}) EXPECT_TRUE(files.has(part)) << part;
  EXPECT_EQ(files.items()[folder].link, "real");
  EXPECT_EQ(rule_of(file), "traced");
}

TEST_F(Rules, DotsAreTakenAfterLinks) {
  make("a/b/in");
  std::string out = make("a/out");
  make("out", "another");
  link("into", "a/b");
  saw(scratch / "into/../out");
  add_traced_files(files, in());
  EXPECT_TRUE(files.has(out));
  EXPECT_FALSE(files.has(scratch / "out"));
}

TEST_F(Rules, LinksThatLeadNowhereOrInCirclesEndWell) {
  std::string dangling = link("dangling", "none"), circle = link("circle", "circle");
  saw(dangling, kLookedAt);
  saw(circle, kLookedAt);
  saw(scratch / "never", kLookedAt);
  add_traced_files(files, in());
  EXPECT_TRUE(files.has(dangling)) << "it is part of what was seen";
  EXPECT_FALSE(files.has(scratch / "never"));
}

TEST_F(Rules, TheReasonIsTheStrongestUse) {
  std::string read = make("read"), run = make("run"), looked = make("looked"), written = make("written");
  saw(read, kLookedAt | kRead);
  saw(run, kRead | kExecuted);
  saw(looked, kLookedAt);
  saw(written, kWritten);
  saw(scratch.path(), kListed);
  add_traced_files(files, in());
  EXPECT_EQ(reason_of(read), "opened while it ran");
  EXPECT_EQ(reason_of(run), "executed while it ran");
  EXPECT_EQ(reason_of(looked), "looked at while it ran");
  EXPECT_EQ(reason_of(scratch.path()), "listed while it ran");
  EXPECT_FALSE(files.has(written)) << "what is only written is state";
}

TEST_F(Rules, WhatRunsAndWhatStartsItAreTaken) {
  std::string program = make("bin/app"), library = make("lib/plugin"), config = make("app.conf"), folder = make("work/x");
  runs(program);
  processes[0].mapped = {library, "/memfd:jit", "/dev/zero"};
  entry.argv = {program, "-c", config, "relative"};
  entry.cwd = scratch / "work";
  add_traced_files(files, in());
  EXPECT_EQ(reason_of(library), "mapped by process 77");
  EXPECT_EQ(reason_of(config), "named on the command line");
  EXPECT_EQ(rule_of(scratch / "work"), "entry");
  EXPECT_FALSE(files.has(folder)) << "the folder, not what is in it";
  EXPECT_FALSE(files.has("/dev/zero"));
}

TEST_F(Rules, ProgramsBringTheirLoaderAndLibraries) {
  std::string program = real_path("/bin/ls");
  saw(program, kExecuted);
  add_traced_files(files, in());
  bool loader = false, libc = false;
  for (const auto& [path, item] : files.items()) {
    loader = loader || path.find("/ld-linux") != std::string::npos;
    libc = libc || (path.ends_with("/libc.so.6") && item.rule == "library");
  }
  EXPECT_TRUE(loader);
  EXPECT_TRUE(libc);
  EXPECT_TRUE(files.has("/lib64")) << "the link that the program names its loader by";
}

TEST_F(Rules, ScriptsBringTheirInterpreters) {
  saw(make("one", "#!/bin/sh -e\n", 0755), kExecuted);
  saw(make("two", "#! /usr/bin/env -S perl -w\n", 0755), kExecuted);
  saw(make("three", "#!/no/such/interpreter\n", 0755), kExecuted);
  add_traced_files(files, in());
  EXPECT_EQ(rule_of(real_path("/bin/sh")), "interpreter");
  EXPECT_EQ(rule_of(real_path("/usr/bin/env")), "interpreter");
  EXPECT_TRUE(files.has(real_path("/usr/bin/perl")));
  EXPECT_TRUE(files.has(scratch / "three"));
}

TEST_F(Rules, TheSkeletonIsWhatEveryProgramExpects) {
  add_skeleton(files, in());
  EXPECT_EQ(files.items()["/bin"].link, "usr/bin");
  EXPECT_EQ(files.items()["/tmp"].st.st_mode & 07777, 01777u);
  EXPECT_TRUE(files.has("/etc/nsswitch.conf") || !exists("/etc/nsswitch.conf"));
  EXPECT_EQ(*files.items()["/etc/hosts"].content, "127.0.0.1\tlocalhost\n") << "not this machine's";
  EXPECT_EQ(*files.items()["/etc/resolv.conf"].content, "");
  for (const char* path : {"/proc", "/sys", "/dev", "/run", "/var/tmp", "/home"}) EXPECT_EQ(rule_of(path), "skeleton") << path;
  EXPECT_FALSE(files.has("/etc/passwd")) << "rule 9";
  for (const auto& [path, item] : files.items()) EXPECT_FALSE(below(path, "/home") && path != "/home") << path;
}

TEST_F(Rules, ALibraryBringsWhatItImplies) {
  add_implied_bundles(files, in());
  EXPECT_TRUE(files.items().empty()) << "nothing implies nothing";
  files.add(make("lib/libssl.so.3"), "traced", "");
  add_implied_bundles(files, in());
  EXPECT_TRUE(files.has("/etc/ssl/openssl.cnf"));
  EXPECT_TRUE(files.has("/etc/ssl/certs/ca-certificates.crt") || !exists("/etc/ssl/certs/ca-certificates.crt"));
  EXPECT_FALSE(files.has("/etc/pam.d"));
  EXPECT_FALSE(files.has("/usr/share/zoneinfo"));
  files.add(make("lib/libpam.so.0"), "traced", "");
  add_implied_bundles(files, in());
  EXPECT_EQ(rule_of("/etc/pam.d"), "bundle");
  EXPECT_EQ(rule_of("/etc/security"), "bundle");
}

TEST_F(Rules, InterpretersMayBeAskedForAnyTimeZone) {
  files.add(make("module.py"), "language", "");
  add_implied_bundles(files, in());
  EXPECT_EQ(files.has("/usr/share/zoneinfo/UTC"), exists("/usr/share/zoneinfo/UTC"));
}

TEST_F(Rules, AnApplicationsOwnFolderIsTakenWhole) {
  Scratch other;
  ASSERT_TRUE(write_file_durably(other / "theirs", "x", 0644));
  saw(make("app/main.py"));
  make("app/templates/never-seen.html");
  add_application_trees(files, in());
  EXPECT_EQ(rule_of(scratch / "app/templates/never-seen.html"), "application");
  EXPECT_FALSE(files.has(other / "theirs")) << "what lies beside it is others'";
}

TEST_F(Rules, AFolderThatOnlyItsSettingsNameIsTaken) {
  Scratch other;
  std::string site = other / "page.html";
  ASSERT_TRUE(write_file_durably(site, "x", 0644));
  saw(make("app.conf", "root " + other.path() + ";\n"));
  add_application_trees(files, in());
  EXPECT_EQ(rule_of(site), "application");
}

TEST_F(Rules, AStateFolderIsNoApplication) {
  saw(make("data/1.db"));
  state_folders[scratch.path()] = true;
  add_application_trees(files, in());
  EXPECT_FALSE(files.has(scratch / "data/1.db"));
}

TEST_F(Rules, ATouchedFolderOfSettingsIsTakenWhole) {
  ASSERT_TRUE(exists("/etc/dpkg/dpkg.cfg"));
  saw("/etc/dpkg/dpkg.cfg");
  saw("/etc/alternatives/awk");
  add_application_trees(files, in());
  EXPECT_EQ(rule_of("/etc/dpkg"), "configuration");
  EXPECT_FALSE(files.has("/etc/alternatives/awk")) << "that folder belongs to all";
}

TEST_F(Rules, AnInterpretersLibraryIsTakenWithoutItsTests) {
  std::string strict = "/usr/lib/x86_64-linux-gnu/perl-base/strict.pm";
  ASSERT_TRUE(exists(strict));
  packages = Packages::read();
  saw(strict);
  add_language_libraries(files, in());
  EXPECT_TRUE(files.has("/usr/lib/x86_64-linux-gnu/perl-base/warnings.pm"));
  std::string python;
  for (const auto& name : list_dir("/usr/lib").value_or(std::vector<std::string>()))
    if (name.starts_with("python3.") && exists("/usr/lib/" + name + "/json/decoder.py")) python = "/usr/lib/" + name;
  ASSERT_FALSE(python.empty());
  saw(python + "/os.py");
  add_language_libraries(files, in());
  EXPECT_EQ(rule_of(python + "/json/decoder.py"), kRuntimeRule);
  for (const auto& [path, item] : files.items()) EXPECT_EQ(path.find("/ensurepip/"), std::string::npos) << path;
}

TEST_F(Rules, APackageOfWhichOneModuleWasUsedIsTakenWhole) {
  std::string pluggy = "/usr/lib/python3/dist-packages/pluggy";
  ASSERT_TRUE(exists(pluggy + "/__init__.py"));
  packages = Packages::read();
  saw(pluggy + "/__init__.py");
  add_language_libraries(files, in());
  for (const auto& name : list_dir(pluggy).value_or(std::vector<std::string>()))
    if (name.ends_with(".py")) {
      EXPECT_EQ(rule_of((pluggy + "/").append(name)), "language") << name;
    }
  bool metadata = std::any_of(files.items().begin(), files.items().end(), [](const auto& item) { return item.first.find("/pluggy-") != std::string::npos; });
  EXPECT_TRUE(metadata) << "entry points are looked up there";
}

TEST_F(Rules, APackagesPluginsComeUnlessTheyAreTooLarge) {
  std::string program = make("sbin/server", "x", 0755), small = make("modules/small.so"), large = make("modules/large.so", std::string(kPluginBudget + 1, 'x')), just = make("modules/just.so", std::string(kPluginBudget, 'x'));
  package("server", {program, small, large, just, scratch / "modules/gone.so"});
  runs(program);
  files.add(program, "running", "");
  add_private_files(files, in());
  EXPECT_EQ(rule_of(small), "plugin");
  EXPECT_EQ(rule_of(just), "plugin");
  EXPECT_FALSE(files.has(large));
  EXPECT_TRUE(warned("large.so of package server was left out"));
}

TEST_F(Rules, ProgramsThatNothingNamesStayOut) {
  std::string server = make("sbin/server", "x", 0755), whole = make("bin/by-path", "x", 0755), word = make("bin/by-name", "x", 0755), next = make("bin/named-by-that", "x", 0755), none = make("bin/tool", "x", 0755);
  std::string script = make("sbin/start", "#!/bin/sh\nexec by-name\n", 0755), settings = make("lib/settings", "helper = " + whole + "\nby-nam bin/too tools\n");
  ASSERT_TRUE(write_file_durably(word, "#!/bin/sh\nnamed-by-that --now\n", 0755));
  package("server", {server, whole, word, next, none, script, settings});
  runs(server);
  for (const auto& used : {server, script, settings}) files.add(used, "traced", "");
  add_private_files(files, in());
  EXPECT_NE(reason_of(whole).find("named in " + settings), std::string::npos);
  EXPECT_NE(reason_of(word).find("named in " + script), std::string::npos);
  EXPECT_NE(reason_of(next).find("named in " + word), std::string::npos) << "what is named names others";
  EXPECT_FALSE(files.has(none));
  EXPECT_TRUE(warned(none));
}

TEST_F(Rules, TheFamilyOfAMainPackageComesWhereItWasUsed) {
  std::string program = make("sbin/server", "x", 0755), used = make("modules/used.so"), beside = make("modules/beside.so"), other = make("modules/other.so");
  package("server", {program});
  package("server-common", {used, beside});
  package("server-extras", {other});
  runs(program);
  saw(used);
  add_private_files(files, in());
  EXPECT_EQ(rule_of(beside), "plugin");
  EXPECT_FALSE(files.has(other)) << "nothing of that package was used";
}

TEST_F(Rules, StateFoldersAreEmptyWithOwnerAndMode) {
  make("data/inner/deep/1.db");
  ASSERT_EQ(::chmod((scratch / "data/inner").c_str(), 0750), 0);
  ASSERT_EQ(::chown((scratch / "data/inner").c_str(), 12, 34), 0);
  state_folders[scratch / "data"] = false;
  entry.uid = 5;
  entry.gid = 6;
  entry.runtime_folders = {"/run/caisson-unit-test-none"};
  add_state_folders(files, in());
  EXPECT_FALSE(files.has(scratch / "data/inner/deep/1.db"));
  EXPECT_EQ(rule_of(scratch / "data/inner/deep"), "state");
  const auto& inner = files.items()[scratch / "data/inner"].st;
  EXPECT_EQ(std::tuple(inner.st_mode & 07777, inner.st_uid, inner.st_gid), std::tuple(0750u, 12u, 34u));
  const auto& runtime = files.items()["/run/caisson-unit-test-none"].st;
  EXPECT_EQ(std::pair(runtime.st_uid, runtime.st_gid), std::pair(5u, 6u));
}

TEST_F(Rules, FoldersOfStateThatAFileNamesAreReady) {
  ASSERT_TRUE(is_folder("/var/log/apt"));
  files.add(make("app", "log to /var/log/apt/app.log, /var/log/apt, and /var/log/no-such-folder/x"), "traced", "");
  saw("/var/cache/apt/pkgcache.bin", kWritten);
  add_state_folders(files, in());
  EXPECT_EQ(reason_of("/var/log/apt"), "named by a file of the application");
  EXPECT_FALSE(files.has("/var/log/no-such-folder"));
  EXPECT_EQ(reason_of("/var/cache/apt"), "the application writes there");
}

TEST_F(Rules, PeoplesAccountsStayOut) {
  add_users(files, in());
  const std::string& users = *files.items()["/etc/passwd"].content;
  EXPECT_TRUE(users.starts_with("root:x:0:0:"));
  EXPECT_NE(users.find("\nnobody:x:65534:"), std::string::npos);
  EXPECT_NE(users.find("\nwww-data:x:"), std::string::npos) << "users of the system stay, whoever they are";
  EXPECT_EQ(users.find('$'), std::string::npos) << "no password";
  for (size_t at = 0; at < users.size(); at = users.find('\n', at) + 1) {
    std::string line = users.substr(at, users.find('\n', at) - at);
    auto id = std::stoul(line.substr(line.find(":x:") + 3));
    EXPECT_TRUE(id < 1000 || id == 65534) << line;
  }
  EXPECT_TRUE(files.items()["/etc/group"].content->starts_with("root:x:0:"));
}

}  // namespace
}  // namespace caisson::capture
