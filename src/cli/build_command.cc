// caisson build.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/strings.h"
#include "build/builder.h"
#include "build/download.h"
#include "build/git.h"
#include "cli/build_worker.h"
#include "cli/commands.h"
#include "cli/epoch.h"
#include "image/layer.h"
#include "sys/in_root.h"

namespace caisson::cli {
namespace {

/// "NAME=VALUE", or "NAME", which takes the caller's value.
Result<std::map<std::string, std::string>> named_values(const Args& args, std::string_view option, bool from_environment) {
  std::map<std::string, std::string> out;
  for (const auto& text : args.all(option)) {
    size_t equals = text.find('=');
    std::string name = text.substr(0, equals);
    if (name.empty()) return fail("--" + std::string(option) + ": \"" + text + "\" has no name", EINVAL);
    if (equals != std::string::npos) {
      out[name] = text.substr(equals + 1);
    } else if (const char* value = from_environment ? ::getenv(name.c_str()) : ""; value != nullptr) {
      out[name] = value;
    }
  }
  return out;
}

/// "id=token,src=FILE" or "id=token,env=NAME"; a value of the environment goes into a file of `scratch`.
Result<std::map<std::string, std::string>> secrets(const Args& args, const std::string& scratch) {
  std::map<std::string, std::string> out;
  for (const auto& text : args.all("secret")) {
    std::string id, file, variable;
    for (const auto& field : split(text, ',', true)) {
      size_t equals = field.find('=');
      std::string key = field.substr(0, equals), value = equals == std::string::npos ? "" : field.substr(equals + 1);
      if (key == "id")
        id = value;
      else if (key == "src" || key == "source")
        file = value;
      else if (key == "env")
        variable = value;
      else if (key != "type" || (value != "file" && value != "env"))
        return fail("--secret: \"" + field + "\" is not understood: use id=NAME,src=FILE or id=NAME,env=VARIABLE", EINVAL);
    }
    if (id.empty()) return fail("--secret: \"" + text + "\" has no id", EINVAL);
    if (file.empty()) {
      const char* value = ::getenv((variable.empty() ? id : variable).c_str());
      if (value == nullptr) return fail("--secret id=" + id + ": neither a file (src=) nor the variable " + (variable.empty() ? id : variable) + " is there", ENOENT);
      file = scratch + "/given." + std::to_string(out.size());
      TRY(write_new_file(file, value, 0600));
    } else if (::access(file.c_str(), R_OK) < 0) {
      return fail_errno("--secret id=" + id + ": " + file);
    }
    out[id] = file;
  }
  return out;
}

/// The Dockerfile of a context that others have made, who may have put links in it.
Result<> read_within(const Args& args, build::BuildOptions& options, const std::string& what) {
  auto root = TRY(sys::RootDir::open(options.context));
  auto read_in = [&](const std::string& name) -> Result<std::string> { return read_fd(TRY(root.open_at(name, O_RDONLY | O_NONBLOCK)).get(), name); };
  options.file = args.get("file", "Dockerfile");
  if (options.file == "-") {
    options.file = "Dockerfile (standard input)";
    options.text = TRY(read_fd(STDIN_FILENO, "standard input"));
  } else {
    if (!args.has("file") && !root.open_at(options.file, O_PATH) && root.open_at("Containerfile", O_PATH)) options.file = "Containerfile";
    options.text = TRY(read_in(options.file), "build: " + options.file + " of " + what);
  }
  for (const auto& rules : {options.file + ".dockerignore", std::string(".dockerignore")})
    if (root.open_at(rules, O_PATH)) {
      options.ignore = TRY(read_in(rules), "build");
      break;
    }
  return {};
}

/// What came from `fd`, unpacked below `scratch`: an archive is the context, anything else a
/// Dockerfile without one. As Docker's.
Result<> read_context(const Args& args, int fd, const std::string& name, const std::string& scratch, build::BuildOptions& options) {
  options.context = scratch + "/context";
  TRY(make_dirs(options.context));
  Fd kept = TRY(open_file(scratch, O_TMPFILE | O_RDWR, 0600));
  image::FdSource input(fd, name);
  image::FdSink sink(kept.get());
  auto plain = TRY(image::decompress(input));
  uint64_t size = TRY(image::copy(*plain, sink), "build");
  image::FdSource whole(kept.get(), name, 0, size), again(kept.get(), name, 0, size);
  image::TarReader tar(whole);
  image::TarEntry entry;
  if (auto first = tar.next(entry); first && *first) {
    TRY(image::unpack_layer(again, options.context, {.whiteouts = false}), "build: the context");
    return read_within(args, options, "the archive");
  }
  if (args.has("file")) return fail("build: " + name + " is no archive for --file to be in", EINVAL);
  options.file = "Dockerfile (" + name + ")";
  if (::lseek(kept.get(), 0, SEEK_SET) < 0) return fail_errno("build");
  options.text = TRY(read_fd(kept.get(), name));
  return {};
}

/// A context that is not on this host: a repository, an archive or a Dockerfile at an address.
Result<> fetch_context(const Args& args, const std::string& scratch, build::BuildOptions& options) {
  std::string address = options.context;
  if (auto repository = build::git_source(address, true); repository) {
    options.context = TRY(build::check_out(*repository, scratch + "/repository", ::getenv("BUILDKIT_CONTEXT_KEEP_GIT_DIR") != nullptr), "build");
    return read_within(args, options, "the repository");
  }
  std::string file = scratch + "/fetched";
  Fd written = TRY(open_file(file, O_RDWR | O_CREAT | O_EXCL, 0600));
  TRY(build::download(address, written.get()), "build");
  if (::lseek(written.get(), 0, SEEK_SET) < 0) return fail_errno("build");
  return read_context(args, written.get(), address, scratch, options);
}

/// The Dockerfile: --file, or that of the context. As its name is said in errors.
Result<> read_dockerfile(const Args& args, build::BuildOptions& options) {
  std::string file = args.get("file");
  if (file == "-") {
    options.file = "Dockerfile (standard input)";
    options.text = TRY(read_fd(STDIN_FILENO, "standard input"));
  } else if (file.empty()) {
    file = options.context + "/Dockerfile";
    if (!exists(file) && exists(options.context + "/Containerfile")) file = options.context + "/Containerfile";
    if (!exists(file)) return fail("build: no Dockerfile in " + options.context + " (name one with --file)", ENOENT);
  }
  if (file != "-") {
    options.file = args.has("file") ? file : std::string(base_name(file));
    options.text = TRY(read_file(file), "build");
  }
  // Rules of its own come before the context's.
  for (const auto& rules : {file + ".dockerignore", options.context + "/.dockerignore"})
    if (exists(rules)) {
      options.ignore = TRY(read_file(rules), "build");
      break;
    }
  return {};
}

Result<int> cmd_build(const Globals& globals, const Args& args) {
  std::string platform = args.get("platform", "linux/amd64");
  if (platform != "linux/amd64" && platform != "linux/x86_64") return fail("--platform: " + platform + " is not supported: this builds for linux/amd64 alone", ENOTSUP);
  auto engine = TRY(engine::Engine::open(globals.root, globals.run_root));
  build::BuildOptions options;
  options.context = args.rest()[0];
  bool remote = build::git_source(options.context, true) || build::is_web_address(options.context);
  if (!remote && options.context.find("://") != std::string::npos) return fail("build: \"" + options.context + "\" is not supported as a context: give a folder, a repository, an address of http or https, or an archive on standard input", ENOTSUP);
  while (options.context.size() > 1 && options.context.ends_with('/')) options.context.pop_back();
  bool piped = options.context == "-";
  if (piped && args.get("file") == "-") return fail("build: standard input cannot be the Dockerfile and the context", EINVAL);
  if (!piped && !remote) TRY(read_dockerfile(args, options));
  for (const auto& name : args.all("tag")) options.names.push_back(TRY(image::normal_name(name), "--tag"));
  options.build_args = TRY(named_values(args, "build-arg", true));
  options.labels = TRY(named_values(args, "label", false));
  options.target = args.get("target");
  options.network = args.get("network");
  options.no_cache = args.flag("no-cache");
  if (args.has("jobs")) options.jobs = static_cast<unsigned>(TRY(parse_uint(args.get("jobs"), 1000), "--jobs"));
  auto epoch = options.build_args.find("SOURCE_DATE_EPOCH");
  options.epoch = TRY(source_date_epoch(epoch == options.build_args.end() ? "" : epoch->second));
  BuildWorker::Options how{.pull = args.flag("pull") ? "always" : "missing", .add_hosts = args.all("add-host"), .memory = {}};
  if (args.has("memory")) how.memory = static_cast<int64_t>(TRY(parse_size(args.get("memory")), "--memory"));
  auto worker = TRY(BuildWorker::make(engine, how));
  if (piped) TRY(read_context(args, STDIN_FILENO, "standard input", worker->scratch(), options));
  if (remote) TRY(fetch_context(args, worker->scratch(), options));
  options.secrets = TRY(secrets(args, worker->scratch()));
  bool quiet = args.flag("quiet");
  auto say = [quiet](const std::string& line) {
    if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  auto store = TRY(engine.images());
  auto image = TRY(build::build(options, *worker, store, build::BuildCache(globals.root), say));
  for (const auto& name : options.names) say("Successfully tagged " + name);
  if (args.has("iidfile")) TRY(replace_file(args.get("iidfile"), image.id().str(), 0644), "--iidfile");
  std::printf("%s\n", image.id().str().c_str());
  return 0;
}

constexpr Option kBuildOptions[] = {
    {"-f,--file", "FILE", "the Dockerfile; - is standard input (default: Dockerfile of the context)"},
    {"-t,--tag", "NAME[:TAG]", "a name for the image"},
    {"--build-arg", "NAME=VALUE", "the value of an ARG"},
    {"--target", "STAGE", "build that stage"},
    {"--secret", "id=NAME,src=FILE", "a file for RUN --mount=type=secret; env=VARIABLE in place of src"},
    {"--label", "NAME=VALUE", "a label of the image"},
    {"--no-cache", "", "do every step again"},
    {"--jobs", "N", "stages that are built at the same time (default: as many as there are processors)"},
    {"--pull", "", "ask the registry for newer base images"},
    {"--network", "default|none|host", "the network of RUN"},
    {"--add-host", "NAME:ADDRESS", "a line of /etc/hosts in RUN"},
    {"-m,--memory", "SIZE", "limit of what RUN may use"},
    {"--platform", "OS/ARCH", "must be linux/amd64"},
    {"--iidfile", "FILE", "write the image's id there"},
    {"-q,--quiet", "", "print the image's id alone"},
};

}  // namespace

const Command kBuildCommand{"build", "DIR|ADDRESS|-", "build an image from a Dockerfile", "caisson build --tag web:1.0 .", kBuildOptions, 1, 1, false, false, cmd_build};

}  // namespace caisson::cli
