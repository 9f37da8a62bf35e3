#include "build/cache.h"

#include <sys/stat.h>

#include "base/fd.h"
#include "oci/digest.h"

namespace caisson::build {
namespace {

std::optional<CachedStep> read_step(const std::string& path) {
  auto document = read_json(path);
  if (!document) return std::nullopt;
  JsonReader::State errors;
  JsonReader r(*document, "", errors);
  CachedStep step;
  r.get("layer", step.layer);
  r.get("size", step.size);
  r.get("created", step.created);
  r.get("stack", step.stack);
  // A damaged record is none: the step is done again.
  return errors.error.empty() ? std::optional<CachedStep>(std::move(step)) : std::nullopt;
}

}  // namespace

std::string BuildCache::path_of(const Json& description) const { return folder_ + "/steps/" + oci::Digest::of(json_text(description)).hex(); }

std::optional<CachedStep> BuildCache::find(const Json& description) const { return read_step(path_of(description)); }

Result<> BuildCache::add(const Json& description, const CachedStep& step) const {
  TRY(make_dirs(folder_ + "/steps", 0700));
  return write_file_durably(path_of(description), json_text({{"layer", step.layer}, {"size", step.size}, {"created", step.created}, {"stack", step.stack}}));
}

Result<std::string> BuildCache::mount_folder(const std::string& id) const {
  // Its name may be anything; the folder's is a digest. What it holds belongs to whom the build says.
  std::string folder = folder_ + "/mounts/" + oci::Digest::of(id).hex();
  TRY(make_dirs(folder_ + "/mounts", 0700));
  TRY(make_dirs(folder));
  return folder;
}

std::set<std::vector<std::string>> BuildCache::stacks() const {
  std::set<std::vector<std::string>> out;
  auto names = list_dir(folder_ + "/steps");
  if (!names) return out;
  for (const auto& name : *names)
    if (auto step = read_step(folder_ + "/steps/" + name); step && !step->stack.empty()) out.insert(step->stack);
  return out;
}

Result<> BuildCache::clear() const { return remove_tree(folder_); }

}  // namespace caisson::build
