#include "capture/capture.h"

#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>

#include "base/log.h"
#include "base/rollback.h"
#include "base/strings.h"
#include "capture/installation.h"
#include "capture/look.h"
#include "capture/plan.h"
#include "capture/report.h"
#include "capture/write_image.h"

namespace caisson::capture {
namespace {

/// Folders of the kernel's, and of what is there for the moment.
constexpr const char* kPassing[] = {"/proc", "/sys", "/dev", "/run", "/var/run", "/tmp", "/var/tmp"};

/// What is taken at most of a folder that the capture lists.
constexpr uint64_t kRepairedTree = 5u << 20;
constexpr int kRepairRounds = 5;

/// The files that a plan names, and what each needs.
void add_planned_files(FileSet& files, const Plan& plan, const ClosureInput& in) {
  for (const auto& [reason, paths] : plan.files) {
    size_t colon = reason.find(": ");
    std::string rule = colon == std::string::npos ? "plan" : reason.substr(0, colon), why = colon == std::string::npos ? reason : reason.substr(colon + 2);
    for (const auto& path : paths) {
      struct stat st;
      bool there = ::lstat(path.c_str(), &st) == 0;
      if (!there && rule != "skeleton" && rule != "state") files.warn("the plan names " + path + ", which does not exist");
      if (!there || S_ISDIR(st.st_mode))
        files.add_empty_folder(path, rule, why);
      else
        files.add(path, rule, why);
    }
  }
  add_replaced_files(files);
  add_users(files, in);
}

/// Binary files and those above the limit are left as they are.
Result<> replace_text(FileSet& files, const Replacement& r) {
  constexpr uint64_t kLargest = 16u << 20;
  std::map<std::string, std::string> changed;
  std::set<std::string> behind_links;
  for (const auto& [path, item] : files.items())
    if (char real[PATH_MAX]; S_ISLNK(item.st.st_mode) && ::fnmatch(r.path.c_str(), path.c_str(), 0) == 0 && ::realpath(path.c_str(), real) != nullptr) behind_links.insert(real);
  for (const auto& [path, item] : files.items()) {
    if (!S_ISREG(item.st.st_mode) || (!behind_links.contains(path) && ::fnmatch(r.path.c_str(), path.c_str(), 0) != 0)) continue;
    auto text = item.content ? Result<std::string>(*item.content) : read_file(path, kLargest);
    if (!text || text->find('\0') != std::string::npos || text->find(r.from) == std::string::npos) continue;
    std::string out;
    size_t at = 0;
    for (size_t found; (found = text->find(r.from, at)) != std::string::npos; at = found + r.from.size()) out += text->substr(at, found - at) + r.to;
    changed[path] = out + text->substr(at);
  }
  if (changed.empty()) return fail("no captured text file of that path has \"" + r.from + "\"");
  for (auto& [path, text] : changed) files.add_content(path, std::move(text), 0644, "asked", "\"" + r.from + "\" became \"" + r.to + "\" (--replace)");
  return {};
}

/// Everything that goes into the image. `repaired`: what an earlier image lacked.
Result<FileSet> assemble(const CaptureRequest& request, const Seen& seen, const Packages& packages, const std::map<std::string, unsigned>& repaired) {
  FileSet files;
  for (const auto& s : request.include_secrets) files.allow_secret(s);
  for (const auto& s : seen.state_secrets) files.leave_out(s);
  for (const auto& [folder, needed] : seen.state_folders) files.exclude(folder);
  ClosureInput in{&seen.trace, &seen.processes, &seen.entry, &seen.state_folders, &packages};
  if (request.plan != nullptr) {
    for (const auto& s : request.plan->include_secrets) files.allow_secret(s);
    add_planned_files(files, *request.plan, in);
  } else {
    for (const auto& entry : seen.more) {
      in.entry = &entry;
      add_traced_files(files, in);
      add_application_trees(files, in);
      add_private_files(files, in);
      add_state_folders(files, in);
    }
    in.entry = &seen.entry;
    // 2, the closure over loaders, libraries and interpreters, happens inside
    // FileSet for every file that any rule adds.
    add_traced_files(files, in);
    add_skeleton(files, in);
    add_implied_bundles(files, in);
    add_application_trees(files, in);
    add_language_libraries(files, in);
    add_private_files(files, in);
    for (const auto& path : request.installed) files.add(path, "installed", request.installation->script.empty() ? "part of the package that was asked for" : "installed for this image");
    add_state_folders(files, in);
    add_implied_bundles(files, in);  // plugins may have brought new libraries
    add_users(files, in);
  }
  for (const auto& [path, use] : repaired)
    if ((use & kListed) != 0)
      files.add_tree(path, "repair", "looked for by the capture while it was verified", kRepairedTree);
    else
      files.add(path, "repair", "looked for by the capture while it was verified");
  for (const char* path : {"/tmp", "/var/tmp"})
    if (auto it = files.items().find(path); it != files.items().end()) it->second.st.st_mode = S_IFDIR | 01777;
  for (const auto& path : request.add) {
    if (!exists(path)) return fail("--add: " + path + " does not exist");
    files.add_tree(path, "asked", "asked for with --add", 64ull << 30);
  }
  for (const auto& [path, source] : request.set_files) files.add_content(clean_path(path), TRY(read_file(source, 64u << 20), "--set-file"), 0644, "asked", "replaced with --set-file");
  for (const auto& r : request.replacements) TRY(replace_text(files, r), "--replace " + r.path);
  return files;
}

/// What the capture looked for in vain, and this host has: path and use.
std::map<std::string, unsigned> missing_from(const FileSet& files, const Trace& trace) {
  std::map<std::string, unsigned> out;
  std::string program = link_target("/proc/self/exe");
  for (const auto& [path, use] : trace.paths) {
    std::string plain = clean_path(path);
    bool passing = std::any_of(std::begin(kPassing), std::end(kPassing), [&](const char* folder) { return plain == folder || plain.starts_with(std::string(folder) + "/"); });
    // Behind its links, as the image has it.
    char real[PATH_MAX];
    if (passing || plain == "/" || ::realpath(plain.c_str(), real) == nullptr || real == program || files.has(real) || files.excluded(real)) continue;
    out[plain] = use;
  }
  return out;
}

/// Runs the image and compares; adds what it lacks and tries again, while that helps.
Result<Verdict> verify_and_repair(const CaptureRequest& request, Seen& seen, const Packages& packages, FileSet& files, image::Store& store, const Progress& progress) {
  VerifyRequest check{.run = {.image = request.name, .scratch = request.scratch}, .original = request.pid, .ports = seen.ports, .checks = request.checks, .recorded = seen.recorded};
  check.run.writable = writable_folders(seen, files);
  if (seen.kernel.known) {
    check.run.capabilities = needed_capabilities(seen.kernel);
    check.run.seccomp = seccomp_profile(seen.kernel);
  }
  // What the image must not have is handed in, as it will be by whoever runs it.
  for (const auto& secret : files.secrets()) check.run.secrets.push_back(secret.path);
  for (const auto& process : seen.processes)
    for (const auto& variable : process.env)
      for (const auto& name : seen.entry.secret_variables)
        if (variable.starts_with(name + "=") && std::find(check.run.env.begin(), check.run.env.end(), variable) == check.run.env.end()) check.run.env.push_back(variable);
  if (!seen.answers) progress("asking the original");
  Original original = seen.answers ? Original::from(*seen.answers) : TRY(Original::ask(check), "ask the original");
  std::map<std::string, unsigned> repaired;
  for (int round = 1;; ++round) {
    progress("verifying the capture" + (round > 1 ? ", round " + std::to_string(round) : std::string()));
    Verdict verdict = TRY(verify(check, original, *request.runner, progress), "verify the capture");
    verdict.details["rounds"] = round;
    verdict.details["repaired"] = Json::array();
    for (const auto& [path, use] : repaired) verdict.details["repaired"].push_back(path);
    if (verdict.result != Verdict::Result::differs || round == kRepairRounds) return verdict;
    auto missing = missing_from(files, verdict.trace);
    size_t before = repaired.size();
    repaired.merge(missing);
    if (!verdict.ran && !seen.entry.before.empty() && !seen.prepared) {
      progress("it does not run; having it prepared as its unit does");
      seen.prepared = true;
      add_init(seen.kernel);
      if (seen.kernel.known) {
        check.run.capabilities = needed_capabilities(seen.kernel);
        check.run.seccomp = seccomp_profile(seen.kernel);
      }
    } else if (verdict.ended && !seen.init) {
      progress("it ended while it was asked; starting it below an init");
      seen.init = true;
    } else if (repaired.size() == before) {
      if (!verdict.details["confined"].get<bool>()) return verdict;
      progress("nothing more was looked for; trying without confinement");
      check.run.capabilities.reset();
      check.run.seccomp = {};
      continue;
    }
    if (repaired.size() > before) progress("adding " + std::to_string(repaired.size() - before) + " paths that it looked for");
    files = TRY(assemble(request, seen, packages, repaired));
    TRY(write_image(request, seen, files, packages, store));
  }
}

/// A look at the target, with its environment cleaned.
struct Looked {
  Seen seen;
  std::vector<std::string> notes;
};

Result<Looked> look(const CaptureRequest& request, const Progress& progress) {
  Looked out;
  Seen& seen = out.seen;
  if (request.pid != 0) {
    seen = TRY(look_at_process(request, progress, out.notes), "capture process " + std::to_string(request.pid));
    for (size_t i = 0; i < request.beside.size(); ++i) {
      CaptureRequest other = request;
      other.pid = request.beside[i];
      other.scratch = request.scratch + "/" + std::to_string(i);
      TRY(make_dirs(other.scratch, 0700));
      put_beside(seen, TRY(look_at_process(other, progress, out.notes), "capture process " + std::to_string(other.pid)), out.notes);
    }
  } else {
    seen = TRY(run_command(request, progress, out.notes), "capture");
  }
  auto allowed = request.include_secrets;
  if (request.plan != nullptr) allowed.insert(allowed.end(), request.plan->include_secrets.begin(), request.plan->include_secrets.end());
  for (const auto& [folder, archive] : seen.state)
    for (auto& secret : TRY(drop_secrets(folder, archive, allowed), "look for secrets in " + folder)) seen.state_secrets.push_back(std::move(secret));
  if (request.plan != nullptr) TRY(follow_plan(*request.plan, seen));
  for (const auto& e : request.env) {
    std::erase_if(seen.entry.env, [&](const std::string& old) { return old.starts_with(e.substr(0, e.find('=') + 1)); });
    seen.entry.env.push_back(e);
  }
  if (request.data == "empty") seen.state.clear();
  if (seen.trace.lost > 0) out.notes.push_back(std::to_string(seen.trace.lost) + " file accesses came faster than they could be written down");
  return out;
}

/// The folder of a capture's temporary files, held while it lives: without a holder it is
/// rubbish, which the next command removes.
class Scratch {
 public:
  static Result<Scratch> make(const std::string& folder) {
    TRY(make_dirs(folder, 0700));
    return Scratch(folder, TRY(FileLock::acquire(folder + "/lock")));
  }
  Scratch(Scratch&& other) noexcept : folder_(std::exchange(other.folder_, "")), alive_(std::move(other.alive_)) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    if (!folder_.empty()) (void)remove_tree(folder_);
  }

 private:
  Scratch(std::string folder, FileLock alive) : folder_(std::move(folder)), alive_(std::move(alive)) {}
  std::string folder_;
  FileLock alive_;
};

}  // namespace

void take_unit(const Unit& unit, CaptureRequest& request) {
  request.command = unit_command(unit);
  request.user = unit.user.empty() ? "" : unit.user + (unit.group.empty() ? "" : ":" + unit.group);
  request.cwd = unit.working_directory.empty() ? "/" : unit.working_directory;
  request.unit_env = unit_environment(unit);
  for (const auto& d : unit.runtime_directories) request.folders.push_back("/run/" + d);
  request.folders.insert(request.folders.end(), unit.other_directories.begin(), unit.other_directories.end());
  request.before = unit_before(unit);
  request.ulimits = unit.ulimits;
}

namespace {

Result<std::string> analyze_here(const CaptureRequest& request, const std::string& kind, const std::string& target, const Progress& progress) {
  Looked looked = TRY(look(request, progress));
  Packages packages = Packages::read();
  FileSet files = TRY(assemble(request, looked.seen, packages, {}));
  std::vector<std::string> unsure = files.warnings();
  unsure.insert(unsure.end(), looked.notes.begin(), looked.notes.end());
  Plan plan;
  plan.target_kind = kind;
  plan.target = target;
  return plan_text(plan, looked.seen, files, unsure);
}

Result<CaptureResult> capture_here(const CaptureRequest& request, image::Store& store, const Progress& progress) {
  CaptureResult result;
  Looked looked = TRY(look(request, progress));
  Seen& seen = looked.seen;
  Packages packages = Packages::read();
  FileSet files = TRY(assemble(request, seen, packages, {}));
  for (const auto& s : files.secrets()) log::debug("left out " + s.path + ": " + s.why);
  progress("writing the image");
  TRY(write_image(request, seen, files, packages, store));
  if (request.runner != nullptr && (request.pid != 0 || seen.answers)) result.verdict = TRY(verify_and_repair(request, seen, packages, files, store, progress));
  if (request.data == "volume") {
    // Proven with its data in the image, which moves out now.
    for (const auto& [folder, tar] : seen.state) {
      TRY(request.fill_volume(folder, tar), "--data volume: " + folder);
      seen.volumes.insert(folder);
    }
    seen.state.clear();
    TRY(write_image(request, seen, files, packages, store));
  }
  result.image = TRY(store.find(request.name));
  result.report = make_report(files, seen, packages, looked.notes);
  result.report["confinement"] = Json();
  if (seen.kernel.known) result.report["confinement"] = {{"capabilities", needed_capabilities(seen.kernel)}, {"seccomp", seccomp_profile(seen.kernel)}};
  result.report["verification"] = result.verdict ? result.verdict->details : Json::object();
  result.report["verification"]["result"] = !result.verdict || result.verdict->result == Verdict::Result::not_checked ? "not checked" : result.verdict->result == Verdict::Result::passed ? "passed"
                                                                                                                                                                                          : "differs";
  if (result.verdict) result.report["verification"]["summary"] = result.verdict->summary;
  return result;
}

}  // namespace

Result<std::string> analyze(const CaptureRequest& request, const std::string& kind, const std::string& target, const Progress& progress) {
  Scratch scratch = TRY(Scratch::make(request.scratch));
  if (!request.installation) return analyze_here(request, kind, target, progress);
  Json text = TRY(in_installation(request, progress, [&](const CaptureRequest& inside) -> Result<Json> { return Json(TRY(analyze_here(inside, kind, target, progress))); }));
  return text.get<std::string>();
}

Result<CaptureResult> capture(const CaptureRequest& request, image::Store& store, const Progress& progress) {
  Scratch scratch = TRY(Scratch::make(request.scratch));
  if (!request.installation) return capture_here(request, store, progress);
  Json told = TRY(in_installation(request, progress, [&](const CaptureRequest& inside) -> Result<Json> {
    CaptureResult result = TRY(capture_here(inside, store, progress));
    Json out{{"report", std::move(result.report)}, {"verdict", nullptr}};
    if (result.verdict) out["verdict"] = {{"result", static_cast<int>(result.verdict->result)}, {"summary", result.verdict->summary}, {"details", std::move(result.verdict->details)}};
    return out;
  }));
  CaptureResult result;
  result.image = TRY(store.find(request.name));
  result.report = std::move(told["report"]);
  if (const Json& verdict = told["verdict"]; !verdict.is_null()) result.verdict = Verdict{.result = static_cast<Verdict::Result>(verdict["result"].get<int>()), .summary = verdict["summary"].get<std::string>(), .details = verdict["details"], .trace = {}};
  return result;
}

}  // namespace caisson::capture
