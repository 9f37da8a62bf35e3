// What the parts of the builder share with each other and nobody else.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>

#include "build/builder.h"
#include "build/copy.h"
#include "build/stages.h"

namespace caisson::build {

/// How far a stage is.
struct State {
  std::string label;  ///< before its lines for people: "[name] "; "" where there is one stage alone
  oci::ImageConfig config;
  std::vector<oci::Descriptor> layers;
  std::map<std::string, std::string> args;  ///< ARGs that are declared so far
  bool command_set = false;                 ///< CMD by this Dockerfile

  /// What $NAME means now: the environment, then the ARGs.
  [[nodiscard]] Lookup lookup() const;
  [[nodiscard]] std::string cwd() const { return config.working_dir.empty() ? "/" : config.working_dir; }
  /// A path as seen from the working directory.
  [[nodiscard]] std::string absolute(const std::string& path) const;
  /// The words of the shell form.
  [[nodiscard]] std::vector<std::string> in_shell(const std::string& command) const;
  /// An image of its layers alone.
  [[nodiscard]] image::Image image(const std::string& store) const;
};

/// Sets a variable in a list of "NAME=VALUE".
void set_variable(std::vector<std::string>& list, const std::string& name, const std::string& value);

/// Instructions that change the configuration alone. False where it is none of them.
[[nodiscard]] Result<bool> change_config(const Instruction& instruction, const Stages& stages, const std::map<std::string, std::string>& build_args, State& state);

class Builder {
 public:
  Builder(const BuildOptions& options, Worker& worker, image::Store& store, const BuildCache& cache, const std::function<void(const std::string&)>& say, Stages stages, sys::RootDir context)
      : options_(options), worker_(worker), store_(store), cache_(cache), say_(say), stages_(std::move(stages)), context_(std::move(context)), ignored_(IgnoreRules::parse(options.ignore)) {}

  [[nodiscard]] Result<image::Image> run();

 private:
  /// Those of `needs`, each after those that it needs; several at a time.
  [[nodiscard]] Result<> build_stages(const std::map<int, std::set<int>>& needs);
  /// Builds it, or waits for who does; what it is based on first.
  [[nodiscard]] Result<const State*> stage(int number);
  [[nodiscard]] Result<State> build_stage(int number);
  [[nodiscard]] Result<State> begin_stage(const Stage& stage);
  void say(const State& state, const std::string& line);
  [[nodiscard]] Result<> step(const Instruction& instruction, State& state, int stage);
  [[nodiscard]] Result<> copy_step(const Instruction& instruction, State& state, int stage);
  [[nodiscard]] Result<> workdir_step(const Instruction& instruction, State& state);
  [[nodiscard]] Result<> run_step(const Instruction& instruction, State& state, int stage);

  /// One that writes: takes the layer that is known for this description, or makes it by `work`
  /// in a workspace for `command`. `mount_points`: mount points that are no part of the image.
  struct Writing {
    Json description;
    std::string created_by;
    Work command;
    std::function<Result<>(Workspace&)> work;
    std::vector<std::string> mount_points;
  };
  [[nodiscard]] Result<> write_layer(Writing writing, State& state);
  [[nodiscard]] Result<> keep_layer(Workspace& workspace, const Writing& writing, State& state);
  void add_history(State& state, const std::string& created, const std::string& created_by, bool empty) const;

  /// Calls `work` with the files that --from names, or with the context.
  [[nodiscard]] Result<> with_tree(const std::optional<std::string>& from, int before, const std::function<Result<>(const Tree&)>& work);
  [[nodiscard]] Result<Piece> download(const Instruction& instruction, const std::string& address, const std::string& checksum);
  /// A mount of RUN --mount; adds what it says of it to the description.
  struct Mounts {
    Work& command;
    Json& description;
    std::vector<FileLock> locks;
  };
  [[nodiscard]] Result<> add_mount(const std::string& text, const State& state, int stage, Mounts& mounts);
  [[nodiscard]] Result<> add_bind(const std::map<std::string, std::string>& keys, const State& state, int stage, Mounts& mounts);
  [[nodiscard]] Result<> add_cache(const std::map<std::string, std::string>& keys, const State& state, Mounts& mounts);
  [[nodiscard]] Result<> add_secret(const std::map<std::string, std::string>& keys, Mounts& mounts);

  [[nodiscard]] Result<image::Image> finish(State state);
  [[nodiscard]] std::string now() const;

  const BuildOptions& options_;
  Worker& worker_;
  image::Store& store_;
  const BuildCache& cache_;
  const std::function<void(const std::string&)>& say_;
  Stages stages_;
  sys::RootDir context_;
  IgnoreRules ignored_;
  int step_count_ = 0;
  bool labels_ = false;
  std::atomic<int> steps_ = 0, files_ = 0;

  std::mutex talking_, mutex_;  // `mutex_` for what follows
  std::condition_variable changed_;
  struct Outcome {
    std::optional<Result<State>> state;  ///< none: somebody is at it
  };
  std::map<int, Outcome> stages_begun_;
  std::optional<Error> failure_;  ///< the first
};

}  // namespace caisson::build
