#include "registry/replication.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "base/strings.h"
#include "image/stream.h"
#include "registry/policy.h"
#include "registry/sources.h"
#include "registry/transfer.h"

namespace caisson::registry {

/// What waits to be done there: as a file, of JSON.
struct Replication::Item {
  std::string repository, reference;
  bool deletes = false;

  static Result<Item> read(const std::string& file) {
    Json document = TRY(read_json(file));
    JsonReader::State state;
    JsonReader r(document, "", state);
    Item out;
    r.get("repository", out.repository);
    r.get("reference", out.reference);
    r.get("deletes", out.deletes);
    if (!state.error.empty() || out.repository.empty() || out.reference.empty()) return fail(file + ": " + state.error, EINVAL);
    return out;
  }
  [[nodiscard]] std::string text() const { return json_text(Json{{"repository", repository}, {"reference", reference}, {"deletes", deletes}}); }
};

namespace {

constexpr const char* kName = "destination";

/// A repository of the shelf.
class ShelfOrigin : public Origin {
 public:
  ShelfOrigin(const Shelf& shelf, std::string repository, const std::atomic<bool>& stop) : shelf_(shelf), repository_(std::move(repository)), stop_(stop) {}

  Result<Client::Document> manifest(const std::string& reference) override {
    auto found = TRY(shelf_.manifest(repository_, reference));
    return Client::Document{found.media_type, found.text, found.digest};
  }
  Result<> blob(const oci::Digest& digest, uint64_t size, const std::function<Result<>(std::string_view)>& receive) override {
    auto blob = TRY(shelf_.blob(repository_, digest));
    image::FdSource content(blob.file.get(), "blob " + digest.str(), 0, size);
    std::vector<char> buffer(1u << 17);
    for (size_t n; (n = TRY(content.read(buffer.data(), buffer.size()))) > 0;) {
      if (stop_) return fail("the registry is ending", ECANCELED);
      TRY(receive(std::string_view(buffer.data(), n)));
    }
    return {};
  }
  Result<std::vector<oci::Descriptor>> referrers(const oci::Digest&) override { return std::vector<oci::Descriptor>(); }
  [[nodiscard]] std::string repository_at(const Client&) const override { return ""; }
  /// An index may have been pushed without all that it lists.
  [[nodiscard]] bool partial() const override { return true; }

 private:
  const Shelf& shelf_;
  std::string repository_;
  const std::atomic<bool>& stop_;
};

}  // namespace

class Replication::Destination {
 public:
  Destination(const Shelf& shelf, std::shared_mutex& putting, std::string folder, std::string pattern, std::string text, Location place) : shelf_(shelf), putting_(putting), folder_(std::move(folder)), pattern_(std::move(pattern)), text_(std::move(text)), place_(std::move(place)) {}

  ~Destination() {
    stop_ = true;
    { std::lock_guard guard(mutex_); }
    changed_.notify_all();
  }

  Result<> begin() {
    TRY(make_dirs(folder_));
    thread_ = std::jthread([this] { run(); });
    return {};
  }

  [[nodiscard]] bool fits(const std::string& repository) const { return any_fits({pattern_}, repository); }
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] size_t waiting() const { return items().size(); }

  Result<> add(const Item& item) {
    struct timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    char name[64];
    std::snprintf(name, sizeof name, "%012lld.%09ld.", static_cast<long long>(now.tv_sec), now.tv_nsec);
    TRY(write_file_durably(folder_ + "/" + name + random_hex(4), item.text(), 0644));
    std::lock_guard guard(mutex_);
    more_ = true;
    changed_.notify_all();
    return {};
  }

 private:
  /// What was pushed while it was not a destination: since the last time that this was looked for.
  Result<> add_missed() {
    std::string mark = folder_ + "/" + kName;
    struct stat st;
    int64_t since = ::stat(mark.c_str(), &st) == 0 ? st.st_mtime : 0;
    for (const auto& repository : shelf_.repositories()) {
      if (!fits(repository)) continue;
      for (const auto& digest : shelf_.manifests(repository, since)) TRY(add({repository, digest.str()}));
      for (const auto& tag : TRY(shelf_.tag_times(repository)))
        if (tag.pushed >= since) TRY(add({repository, tag.name}));
    }
    return write_file_durably(mark, text_ + "\n", 0644);
  }

  /// Names of what waits, the oldest first.
  [[nodiscard]] std::vector<std::string> items() const {
    auto names = list_dir(folder_).value_or(std::vector<std::string>());
    std::erase_if(names, [](const std::string& name) { return name == kName || name.find(".tmp.") != std::string::npos; });
    std::sort(names.begin(), names.end());
    return names;
  }

  // Runs in: its thread.
  void run() {
    constexpr int kLongest = 60;  // seconds between two attempts
    if (auto done = add_missed(); !done) log::error("replication to " + text_ + ": what was pushed before is not sent: " + done.error().message);
    for (int failures = 0; !stop_;) {
      std::vector<std::string> names;
      {
        // All that is listed now has been put.
        std::unique_lock nobody_puts(putting_);
        std::lock_guard guard(mutex_);
        more_ = false;
        names = items();
      }
      bool failed = false;
      for (const auto& name : names) {
        if (stop_) return;
        failed = !send(folder_ + "/" + name) || failed;
      }
      failures = failed ? std::min(failures + 1, 16) : 0;
      std::unique_lock lock(mutex_);
      if (failed)
        changed_.wait_for(lock, std::chrono::seconds(std::min(1 << (failures - 1), kLongest)), [&] { return stop_.load(); });
      else
        changed_.wait(lock, [&] { return more_ || stop_; });
    }
  }

  /// True where nothing of it is left to be done.
  bool send(const std::string& file) {
    auto item = Item::read(file);
    auto done = item ? send(*item) : Result<>(detail::propagate(Error(item.error())));
    bool hopeless = !done && done.error().code == EINVAL;  // no other time will be better
    if (done || hopeless) {
      if (hopeless) log::error("replication to " + text_ + ": given up: " + done.error().message);
      ::unlink(file.c_str());
      said_.clear();
      return true;
    }
    if (!stop_ && said_ != done.error().message) log::warning("replication to " + text_ + ": " + done.error().message + "; it is tried again");
    said_ = done.error().message;
    return false;
  }

  Result<> send(const Item& item) {
    ShelfOrigin origin(shelf_, item.repository, stop_);
    auto document = origin.manifest(item.reference);
    if (item.deletes) return document ? Result<>() : remove(item);  // pushed again: that is sent after this
    // It was deleted since.
    if (!document && document.error().code == ENOENT) return {};
    Client client = TRY(Client::open(place_.host, place_.options));
    return transfer(origin, client, place_.at(item.repository), TRY(std::move(document)), item.reference, false, [](const std::string&, uint64_t, uint64_t) {});
  }

  Result<> remove(const Item& item) {
    Client client = TRY(Client::open(place_.host, place_.options));
    return client.remove_manifest(place_.at(item.repository), item.reference);
  }

  const Shelf shelf_;
  std::shared_mutex& putting_;
  std::string folder_, pattern_, text_;
  Location place_;
  std::string said_;  ///< the last failure that the log has
  std::mutex mutex_;
  std::condition_variable changed_;
  bool more_ = false;
  std::atomic<bool> stop_ = false;
  std::jthread thread_;  // the last one: it ends before what it uses
};

Replication::Replication() = default;
Replication::~Replication() = default;

Result<std::unique_ptr<Replication>> Replication::open(const Shelf& shelf, const std::vector<std::string>& rules) {
  std::unique_ptr<Replication> out(new Replication);
  for (const auto& rule : rules) {
    size_t equals = rule.find('=');
    std::string pattern = equals == std::string::npos ? "*" : rule.substr(0, equals), text = equals == std::string::npos ? rule : rule.substr(equals + 1);
    if (pattern.empty()) return fail("--replicate: \"" + rule + "\": write [PATTERN=]HOST[:PORT][/PATH], such as team/*=backup.example/mirror", EINVAL);
    auto place = TRY(parse_location(text), "--replicate");
    std::string folder = shelf.root() + "/replication/" + oci::Digest::of(rule).hex().substr(0, 16);
    out->destinations_.push_back(std::make_unique<Destination>(shelf, out->putting_, folder, pattern, text, std::move(place)));
  }
  for (const auto& destination : out->destinations_) TRY(destination->begin(), "--replicate " + destination->text());
  return out;
}

Result<Replication::Hold> Replication::announce(const Item& item) {
  Hold hold(putting_);
  for (const auto& destination : destinations_)
    if (destination->fits(item.repository)) TRY(destination->add(item));
  return hold;
}

Result<Replication::Hold> Replication::announce(const std::string& repository, const std::string& reference) { return announce(Item{repository, reference}); }

Result<Replication::Hold> Replication::announce_deletion(const std::string& repository, const std::string& reference) { return announce(Item{repository, reference, true}); }

std::string Replication::metrics() const {
  std::string out = "# HELP caisson_registry_replication_waiting Manifests that a destination does not have yet.\n# TYPE caisson_registry_replication_waiting gauge\n";
  for (const auto& destination : destinations_) out += "caisson_registry_replication_waiting{destination=\"" + destination->text() + "\"} " + std::to_string(destination->waiting()) + "\n";
  return out;
}

}  // namespace caisson::registry
