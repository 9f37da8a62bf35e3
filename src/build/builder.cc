#include "build/builder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/strings.h"
#include "build/builder_internal.h"
#include "image/layer.h"

namespace caisson::build {
namespace {

/// Removes a mount point that was made for a mount, and the folders that were made for it.
void remove_mount_point(const sys::RootDir& written, std::string path) {
  for (bool first = true; path != "/"; path = dir_name(path), first = false) {
    auto parent = written.open_at(dir_name(path), O_PATH | O_DIRECTORY);
    if (!parent) continue;
    std::string name(base_name(path));
    struct stat st;
    if (::fstatat(parent->get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) continue;
    bool gone = S_ISDIR(st.st_mode) ? ::unlinkat(parent->get(), name.c_str(), AT_REMOVEDIR) == 0 : first && S_ISREG(st.st_mode) && st.st_size == 0 && ::unlinkat(parent->get(), name.c_str(), 0) == 0;
    if (!gone) return;
  }
}

}  // namespace

std::string Builder::now() const { return options_.epoch ? rfc3339(*options_.epoch) : rfc3339_now(); }

void Builder::add_history(State& state, const std::string& created, const std::string& created_by, bool empty) const {
  state.config.history.push_back({created, created_by, "", empty});
  if (!empty || state.config.created.empty()) state.config.created = created;
}

Result<> Builder::keep_layer(Workspace& workspace, const Writing& writing, State& state) {
  auto root = TRY(sys::RootDir::open(workspace.written()));
  for (const auto& point : writing.mount_points) remove_mount_point(root, clean_path(point));
  CachedStep made{.created = now()};
  for (const auto& id : state.config.diff_ids) made.stack.push_back(id.hex());
  if (!TRY(list_dir_fd(root.fd(), "what was written")).empty()) {
    auto writer = TRY(store_.begin());
    auto layer = TRY(writer.add_blob(oci::kMediaLayer, nullptr, [&](image::Sink& blob) -> Result<> {
      image::TarWriter tar(blob);
      TRY(image::pack_folder(workspace.written(), tar, {.whiteouts = true, .choose = [&](image::TarEntry& entry) {
                                                          if (options_.epoch && entry.mtime > *options_.epoch) {
                                                            entry.mtime = *options_.epoch;
                                                            entry.mtime_ns = 0;
                                                          }
                                                          return image::Take::yes;
                                                        }}));
      return tar.finish();
    }));
    TRY(writer.commit());
    TRY(store_.layers().keep({layer.digest, layer.digest, store_.own_blob_path(layer.digest)}));
    made.layer = layer.digest.hex();
    made.size = layer.size;
    made.stack.push_back(made.layer);
    state.layers.push_back(layer);
    state.config.diff_ids.push_back(layer.digest);
  }
  add_history(state, made.created, writing.created_by, made.layer.empty());
  return cache_.add(writing.description, made);
}

Result<> Builder::write_layer(Writing writing, State& state) {
  std::vector<std::string> below;
  for (const auto& id : state.config.diff_ids) below.push_back(id.hex());
  writing.description["below"] = image::chain_id(below);
  if (options_.epoch) writing.description["epoch"] = *options_.epoch;
  if (auto known = options_.no_cache ? std::nullopt : cache_.find(writing.description); known) {
    auto digest = oci::Digest::parse("sha256:" + known->layer);
    bool there = known->layer.empty() || (digest && (store_.layers().has_tar(*digest) || exists(store_.own_blob_path(*digest))));
    if (there) {
      say(state, "--> Using cache " + (known->layer.empty() ? "(nothing was changed)" : known->layer.substr(0, 12)));
      if (!known->layer.empty()) {
        state.layers.push_back({.media_type = std::string(oci::kMediaLayer), .digest = *digest, .size = known->size, .annotations = {}});
        state.config.diff_ids.push_back(*digest);
      }
      add_history(state, known->created, writing.created_by, known->layer.empty());
      return {};
    }
  }
  image::Image image = state.image(store_.root());
  if (image.manifest.layers.empty()) {
    // A container stands on something: an archive without entries.
    auto writer = TRY(store_.begin());
    image.manifest.layers.push_back(TRY(writer.add_blob(oci::kMediaLayer, std::string(1024, '\0'))));
    image.config.diff_ids.push_back(image.manifest.layers[0].digest);
    TRY(writer.commit());
  }
  auto workspace = TRY(worker_.workspace(image, writing.command));
  TRY(writing.work(*workspace));
  return keep_layer(*workspace, writing, state);
}

Result<> Builder::step(const Instruction& instruction, State& state, int stage) {
  if (TRY(change_config(instruction, stages_, options_.build_args, state))) {
    if (instruction.name != "ARG") add_history(state, state.config.created.empty() ? now() : state.config.created, instruction.str(), true);
    return {};
  }
  if (instruction.name == "RUN") return run_step(instruction, state, stage);
  if (instruction.name == "WORKDIR") return workdir_step(instruction, state);
  return copy_step(instruction, state, stage);
}

Result<State> Builder::begin_stage(const Stage& stage) {
  State state;
  if (stage.base_stage >= 0) {
    state = *TRY(this->stage(stage.base_stage));
    state.args.clear();
    state.command_set = false;
  } else if (stage.base != "scratch") {
    auto image = TRY(worker_.image(stage.base));
    if (image.config.architecture != "amd64" || image.config.os != "linux")
      return fail("image " + stage.base + " is for " + image.config.os + "/" + image.config.architecture + ", and this builds for linux/amd64 alone", ENOTSUP);
    state.config = image.config;
    state.layers = image.manifest.layers;
  }
  return state;
}

void Builder::say(const State& state, const std::string& line) {
  std::lock_guard guard(talking_);
  say_(state.label + line);
}

Result<State> Builder::build_stage(int number) {
  const Stage& stage = stages_.stages[static_cast<size_t>(number)];
  auto located = [](const Instruction& at, Result<> result) -> Result<> {
    if (result) return result;
    // An error of a stage that this one needs has its place already.
    std::string message = result.error().message;
    return fail(message.starts_with(at.at.file + ":") ? message : at.at.say(message), result.error().code);
  };
  auto begun = begin_stage(stage);
  if (!begun) return std::unexpected(located(stage.from, std::unexpected(begun.error())).error());
  State state = std::move(*begun);
  state.label = labels_ ? "[" + (stage.name.empty() ? std::to_string(number) : stage.name) + "] " : "";
  auto announce = [&](const Instruction& instruction) { say(state, "STEP " + std::to_string(++steps_) + "/" + std::to_string(step_count_) + ": " + instruction.str()); };
  announce(stage.from);
  // What the base wants done first in whatever is built on it.
  auto triggers = std::exchange(state.config.on_build, {});
  for (const auto& text : triggers) {
    Instruction instruction = TRY(parse_instruction(text, stages_.escape, stage.from.at));
    say(state, "ONBUILD: " + instruction.str());
    TRY(located(stage.from, step(instruction, state, number)));
  }
  for (const auto& instruction : stage.steps) {
    if (std::lock_guard guard(mutex_); failure_) return detail::propagate(Error(*failure_));
    announce(instruction);
    TRY(located(instruction, step(instruction, state, number)));
  }
  return state;
}

Result<const State*> Builder::stage(int number) {
  std::unique_lock lock(mutex_);
  auto [place, mine] = stages_begun_.try_emplace(number);
  auto& state = place->second.state;
  if (mine) {
    lock.unlock();
    auto made = build_stage(number);
    lock.lock();
    if (!made && !failure_) {
      failure_ = made.error();
      worker_.cancel();
    }
    state = std::move(made);
    changed_.notify_all();
  }
  // Stages need such as stand before them: nobody waits in a circle.
  changed_.wait(lock, [&] { return state.has_value(); });
  if (!*state) return detail::propagate(Error(state->error()));
  return &**state;
}

Result<> Builder::build_stages(const std::map<int, std::set<int>>& needs) {
  std::set<int> waiting;
  for (const auto& [number, others] : needs) waiting.insert(number);
  auto ended = [&](int number) {
    auto begun = stages_begun_.find(number);
    return begun != stages_begun_.end() && begun->second.state;
  };
  auto work = [&] {
    std::unique_lock lock(mutex_);
    while (!failure_ && !waiting.empty()) {
      auto ready = std::find_if(waiting.begin(), waiting.end(), [&](int number) { return std::all_of(needs.at(number).begin(), needs.at(number).end(), ended); });
      if (ready == waiting.end()) {
        changed_.wait(lock);
        continue;
      }
      int number = *ready;
      waiting.erase(ready);
      lock.unlock();
      (void)stage(number);  // its error is failure_
      lock.lock();
    }
  };
  size_t jobs = std::min<size_t>(options_.jobs == 0 ? std::max(1u, std::thread::hardware_concurrency()) : options_.jobs, needs.size());
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < jobs; ++i)
      others.emplace_back(work);
    work();
  }
  if (failure_) return detail::propagate(std::move(*failure_));
  return {};
}

Result<image::Image> Builder::finish(State state) {
  oci::ImageConfig& config = state.config;
  for (const auto& [name, value] : options_.labels) config.labels[name] = value;
  if (options_.epoch || config.created.empty()) config.created = now();
  auto writer = TRY(store_.begin());
  for (auto& layer : state.layers) {
    if (exists(store_.blob_path(layer.digest))) continue;
    // The image that had it is gone; the layer is here.
    Fd tar = TRY(store_.layers().open_tar(layer.digest), "layer " + layer.digest.str());
    image::FdSource content(tar.get(), layer.digest.str());
    TRY(writer.add_blob(layer.media_type, &layer.digest, [&](image::Sink& sink) -> Result<> {
      TRY(image::copy(content, sink));
      return {};
    }));
  }
  oci::Manifest manifest;
  manifest.media_type = oci::kMediaManifest;
  // One manifest, one form of layer names.
  for (auto& layer : state.layers)
    if (layer.media_type.starts_with("application/vnd.docker.")) layer.media_type = layer.media_type.ends_with("gzip") ? oci::kMediaLayerGzip : oci::kMediaLayer;
  manifest.layers = state.layers;
  manifest.config = TRY(writer.add_blob(oci::kMediaConfig, json_text(oci::to_json(config))));
  auto stored = TRY(writer.add_blob(oci::kMediaManifest, json_text(oci::to_json(manifest))));
  TRY(writer.stage(stored, options_.names));
  TRY(writer.commit());
  return store_.find(manifest.config.digest.str());
}

Result<image::Image> Builder::run() {
  int target = static_cast<int>(stages_.stages.size()) - 1;
  if (!options_.target.empty()) target = stages_.find(options_.target, target + 1);
  if (target < 0) return fail(options_.file + ": target stage \"" + options_.target + "\" could not be found", ENOENT);
  // Of the stages that the target needs, as far as names tell.
  std::map<int, std::set<int>> needs;
  std::function<void(int)> add = [&](int number) {
    auto [place, fresh] = needs.try_emplace(number);
    if (!fresh) return;
    const Stage& stage = stages_.stages[static_cast<size_t>(number)];
    step_count_ += 1 + static_cast<int>(stage.steps.size());
    auto need = [&](int other) {
      if (other < 0) return;
      place->second.insert(other);
      add(other);
    };
    need(stage.base_stage);
    for (const auto& instruction : stage.steps) {
      if (auto from = instruction.flag("from"); from) need(stages_.find(*from, number));
      if (auto mounts = instruction.flags.find("mount"); mounts != instruction.flags.end())
        for (const auto& mount : mounts->second)
          for (const auto& field : split(mount, ','))
            if (field.starts_with("from=")) need(stages_.find(field.substr(5), number));
    }
  };
  add(target);
  labels_ = needs.size() > 1;
  TRY(build_stages(needs));
  return finish(*TRY(stage(target)));
}

Result<image::Image> build(const BuildOptions& options, Worker& worker, image::Store& store, const BuildCache& cache, const std::function<void(const std::string&)>& say) {
  auto stages = TRY(divide(TRY(parse_dockerfile(options.text, options.file)), options.build_args));
  std::set<std::string> declared;
  for (const auto& [name, value] : stages.global_args) declared.insert(name);
  for (const auto& stage : stages.stages)
    for (const auto& instruction : stage.steps)
      if (instruction.name == "ARG")
        for (const auto& word : raw_words(instruction.text, stages.escape)) declared.insert(word.substr(0, word.find('=')));
  for (const auto& [name, value] : options.build_args)
    if (!declared.contains(name) && name != "SOURCE_DATE_EPOCH" && !lower_case(name).ends_with("_proxy")) say("warning: --build-arg " + name + " is not used: no ARG of the Dockerfile declares it");
  return Builder(options, worker, store, cache, say, std::move(stages), TRY(sys::RootDir::open(options.context), "the build context")).run();
}

}  // namespace caisson::build
