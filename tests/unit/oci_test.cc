#include <gtest/gtest.h>

#include "oci/default_policy.h"
#include "oci/image.h"
#include "oci/reference.h"
#include "oci/spec.h"
#include "sys/seccomp.h"

namespace caisson::oci {
namespace {

Json minimal() { return *parse_json(R"({"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/"}})", "x"); }

std::string error_of(const Json& document) {
  auto spec = parse_spec(document);
  return spec ? "" : spec.error().message;
}

TEST(Spec, DefaultSurvivesWritingAndReading) {
  Json document = to_json(default_spec());
  auto spec = parse_spec(document);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(to_json(*spec), document);
}

TEST(Spec, UnknownPropertiesAreIgnored) {
  Json d = minimal();
  d["somethingNew"] = {{"a", 1}};
  EXPECT_EQ(error_of(d), "");
}

struct BadSpec {
  const char* pointer;
  const char* value;
  const char* error;
};
void PrintTo(const BadSpec& bad, std::ostream* out) { *out << bad.pointer << " = " << bad.value; }
class BadSpecs : public testing::TestWithParam<BadSpec> {};
TEST_P(BadSpecs, ErrorNamesThePath) {
  Json d = minimal();
  d[Json::json_pointer(GetParam().pointer)] = *parse_json(GetParam().value, "value");
  EXPECT_EQ(error_of(d), std::string("config.json: ") + GetParam().error);
}
INSTANTIATE_TEST_SUITE_P(
    All, BadSpecs,
    testing::Values(BadSpec{"/ociVersion", "7", "ociVersion: expected a string"}, BadSpec{"/ociVersion", "\"2.0.0\"", "ociVersion: version \"2.0.0\" is not supported, expected 1.x"},
                    BadSpec{"/process/args", "[1]", "process.args[0]: expected a string"}, BadSpec{"/process/args", "[]", "process.args: must not be empty"},
                    BadSpec{"/process/args", "[\"a\\u0000b\"]", "process.args[0]: contains a NUL character"},
                    BadSpec{"/process/cwd", "\"tmp\"", "process.cwd: must be an absolute path, not \"tmp\""}, BadSpec{"/process/user", "{\"uid\": -1}", "process.user.uid: number out of range"},
                    BadSpec{"/process/user", "{\"uid\": 4294967295}", "process.user.uid: 4294967295 is not a valid id"},
                    BadSpec{"/process/user", "{\"uid\": 4294967296}", "process.user.uid: number out of range"},
                    BadSpec{"/process/oomScoreAdj", "5000", "process.oomScoreAdj: must be between -1000 and 1000"}, BadSpec{"/mounts", "{}", "mounts: expected an array"},
                    BadSpec{"/mounts", "[{}]", "mounts[0].destination: is required"}, BadSpec{"/linux", "{\"namespaces\":[{\"type\":\"moon\"}]}", "linux.namespaces[0].type: unknown namespace \"moon\""},
                    BadSpec{"/linux", "{\"namespaces\":[{\"type\":\"pid\"},{\"type\":\"pid\"}]}", "linux.namespaces[1].type: namespace \"pid\" is given twice"},
                    BadSpec{"/linux", "{\"intelRdt\":{}}", "linux.intelRdt: not supported"}, BadSpec{"/linux", "{\"resources\":{\"unified\":{\"../x\":\"1\"}}}", "linux.resources.unified.../x: not a controller's file name"},
                    BadSpec{"/hooks", "{\"prestart\":[{\"path\":\"x\"}]}", "hooks.prestart[0].path: must be an absolute path"}, BadSpec{"/hostname", "\"x\"", "hostname: needs a uts namespace"}));

TEST(Digest, OnlyWholeAndLowerCase) {
  std::string good = "sha256:" + std::string(64, 'a');
  EXPECT_TRUE(Digest::parse(good));
  EXPECT_EQ(Digest::parse("sha512:" + std::string(128, 'a'))->path(), "sha512/" + std::string(128, 'a'));
  for (const std::string& bad : {std::string("sha256:../../x"), std::string("sha256:") + std::string(63, 'a'), "sha256:" + std::string(64, 'A'), "sha512:" + std::string(64, 'a'), "sha256:" + std::string(128, 'a'), "sha384:" + std::string(96, 'a'), std::string(64, 'a'), std::string()})
    EXPECT_FALSE(Digest::parse(bad)) << bad;
  EXPECT_EQ(Digest::of("abc").hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // FIPS 180-4's example.
  EXPECT_EQ(Digest::of("abc", Algorithm::kSha512).str(),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
  EXPECT_EQ(Digest::from_hex(std::string(64, 'b'))->str(), "sha256:" + std::string(64, 'b'));
}

TEST(Referrer, SaysWhatItIsListedAs) {
  Digest subject = Digest::of("subject"), self = Digest::of("self");
  Json document{{"config", {{"mediaType", "a/config"}, {"digest", self.str()}, {"size", 2}}}, {"subject", {{"mediaType", "m/t"}, {"digest", subject.str()}, {"size", 7}}}, {"annotations", {{"k", "v"}}}};
  auto referrer = referrer_of(document, "m/t", self, 9);
  ASSERT_TRUE(referrer && *referrer);
  EXPECT_EQ((*referrer)->subject, subject);
  EXPECT_EQ(json_text(to_json((*referrer)->descriptor)), R"({"mediaType":"m/t","digest":")" + self.str() + R"(","size":9,"artifactType":"a/config","annotations":{"k":"v"}})");
  document["artifactType"] = "a/b";
  EXPECT_EQ((*referrer_of(document, "m/t", self, 9))->descriptor.artifact_type, "a/b");
  document["subject"]["digest"] = "sha256:short";
  EXPECT_FALSE(referrer_of(document, "m/t", self, 9));
  document.erase("subject");
  EXPECT_FALSE(referrer_of(document, "m/t", self, 9)->has_value());
}

TEST(Reference, ReadsWhatDockerReads) {
  auto r = parse_reference("localhost:5000/team/web:1.0");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->registry, "localhost:5000");
  EXPECT_EQ(r->repository, "team/web");
  EXPECT_EQ(r->tag, "1.0");
  EXPECT_EQ(parse_reference("web")->str(), "web:latest");
  EXPECT_EQ(parse_reference("library/web")->registry, "");
  EXPECT_TRUE(parse_reference("web@sha256:" + std::string(64, '0'))->tag.empty());
}

TEST(Reference, RefusesWhatIsNone) {
  for (const char* bad : {"", "UPPER", "a//b", "../x", "a:", "a:-x", "a/../b", "a b", "-a", "a@sha256:12", "a:b:c", "x\ny"}) EXPECT_FALSE(parse_reference(bad)) << bad;
}

TEST(Signals, ByNameAndNumber) {
  for (const char* term : {"TERM", "SIGTERM", "sigterm", "15"}) EXPECT_EQ(*parse_signal(term), 15) << term;
  EXPECT_EQ(*parse_signal("RTMIN+3"), 37);
  for (const char* bad : {"", "NOPE", "-1", "65", "SIG"}) EXPECT_FALSE(parse_signal(bad)) << bad;
}

TEST(Manifest, MustNotBeAnIndexToo) {
  std::string digest = "sha256:" + std::string(64, '0');
  std::string d = R"({"mediaType":"m","digest":")" + digest + R"(","size":1})";
  EXPECT_TRUE(parse_manifest(R"({"config":)" + d + R"(,"layers":[]})", "m"));
  auto confused = parse_manifest(R"({"config":)" + d + R"(,"layers":[],"manifests":[]})", "m");
  ASSERT_FALSE(confused);
  EXPECT_EQ(confused.error().message, "m: manifests: a manifest must not also be an index");
  EXPECT_FALSE(parse_index(R"({"manifests":[],"layers":[]})", "m"));
}

TEST(ImageConfig, SurvivesWritingAndReading) {
  ImageConfig c;
  c.user = "www";
  c.env = {"A=b"};
  c.entrypoint = {"/bin/x"};
  c.cmd = {"y"};
  c.exposed_ports = {"80/tcp"};
  c.volumes = {"/data"};
  c.labels = {{"k", "v"}};
  c.stop_signal = "SIGQUIT";
  c.diff_ids = {Digest::of("x")};
  auto again = parse_image_config(to_json(c).dump(), "c");
  ASSERT_TRUE(again);
  EXPECT_EQ(to_json(*again), to_json(c));
}

/// Runs a BPF program as the kernel does, over one system call's data.
uint32_t evaluate(const std::vector<sock_filter>& program, uint32_t arch, uint32_t nr, uint64_t arg0, int* steps) {
  uint32_t a = 0, m[16] = {};
  (void)m;
  *steps = 0;
  for (size_t pc = 0; pc < program.size(); ++pc) {
    ++*steps;
    const auto& i = program[pc];
    switch (i.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        a = i.k == 0 ? nr : i.k == 4 ? arch
                        : i.k == 16  ? static_cast<uint32_t>(arg0)
                        : i.k == 20  ? static_cast<uint32_t>(arg0 >> 32)
                                     : 0;
        break;
      case BPF_ALU | BPF_AND | BPF_K: a &= i.k; break;
      case BPF_JMP | BPF_JA: pc += i.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K: pc += a == i.k ? i.jt : i.jf; break;
      case BPF_JMP | BPF_JGT | BPF_K: pc += a > i.k ? i.jt : i.jf; break;
      case BPF_JMP | BPF_JGE | BPF_K: pc += a >= i.k ? i.jt : i.jf; break;
      case BPF_JMP | BPF_JSET | BPF_K: pc += (a & i.k) != 0 ? i.jt : i.jf; break;
      case BPF_RET | BPF_K: return i.k;
      default: ADD_FAILURE() << "unknown instruction " << i.code; return 0;
    }
  }
  return 0;
}

TEST(DefaultSeccomp, RefusesDangerousCallsAndOtherArchitectures) {
  auto program = sys::compile_seccomp(default_seccomp(default_capabilities()));
  ASSERT_TRUE(program) << program.error().message;
  constexpr uint32_t kX86_64 = 0xc000003e, kI386 = 0x40000003, kAllow = 0x7fff0000;
  int steps;
  auto allowed = [&](uint32_t arch, uint32_t nr, uint64_t arg0 = 0) { return evaluate(program->filter, arch, nr, arg0, &steps) == kAllow; };
  EXPECT_TRUE(allowed(kX86_64, 0)) << "read";
  EXPECT_TRUE(allowed(kX86_64, 59)) << "execve";
  EXPECT_TRUE(allowed(kX86_64, 41, 2)) << "socket(AF_INET)";
  EXPECT_TRUE(allowed(kX86_64, 56, 0x1200011)) << "clone for fork";
  struct {
    uint32_t nr;
    const char* name;
  } denied[] = {{165, "mount"}, {166, "umount2"}, {272, "unshare"}, {308, "setns"}, {321, "bpf"}, {298, "perf_event_open"}, {323, "userfaultfd"}, {425, "io_uring_setup"}, {248, "add_key"}, {250, "keyctl"}, {175, "init_module"}, {246, "kexec_load"}, {155, "pivot_root"}, {435, "clone3"}, {304, "open_by_handle_at"}, {169, "reboot"}, {442, "mount_setattr"}, {101, "ptrace"}, {310, "process_vm_readv"}, {438, "pidfd_getfd"}};
  for (const auto& d : denied) EXPECT_FALSE(allowed(kX86_64, d.nr)) << d.name;
  EXPECT_FALSE(allowed(kX86_64, 41, 38)) << "socket(AF_ALG)";
  EXPECT_FALSE(allowed(kX86_64, 41, 40)) << "socket(AF_VSOCK)";
  EXPECT_FALSE(allowed(kX86_64, 56, 0x10000000)) << "clone(CLONE_NEWUSER)";
  EXPECT_EQ(evaluate(program->filter, kX86_64, 435, 0, &steps), 0x00050000u | 38) << "clone3 answers ENOSYS";
  int longest = 0, native = 0, x32 = 0, i386 = 0;
  for (uint32_t nr = 0; nr < 1024; ++nr) {
    bool ever = false;
    for (uint64_t arg0 : {0ul, 2ul, 8ul, 16ul, 38ul, 40ul, 0x1200011ul, 0x7e020000ul, 0xfffffffful, ~0ul}) {
      ever |= allowed(kX86_64, nr, arg0);
      longest = std::max(longest, steps);
    }
    native += ever;
    x32 += allowed(kX86_64, nr | 0x40000000);
    i386 += allowed(kI386, nr);
  }
  EXPECT_LE(native, 250);
  EXPECT_EQ(x32, 0);
  EXPECT_EQ(i386, 0);
  EXPECT_LE(longest, 40) << "BPF steps of the longest path";
}

}  // namespace
}  // namespace caisson::oci
