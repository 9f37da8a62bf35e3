#include "lazy/filler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <thread>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/strings.h"
#include "image/chunks.h"
#include "image/store.h"
#include "lazy/image.h"
#include "registry/transfer.h"
#include "sys/pre_access.h"

namespace caisson::lazy {
namespace {

constexpr int64_t kPatience = 30'000;                   // ms for which readers wait for a registry that fails
constexpr int64_t kHeadStart = 500;                     // ms before the background begins
constexpr int64_t kShortest = 2000, kLongest = 60'000;  // ms between attempts of the background

/// An access is answered to by its descriptor's number. Those of a filler that takes over what another
/// one has not read must be other ones than that had.
constexpr uint32_t kMostNumbers = 512;
constexpr int kMostAtOnce = 128;  // accesses

Result<> occupy_below(uint32_t first) {
  struct rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = first + kMostNumbers;
  if (limit.rlim_cur > limit.rlim_max || ::setrlimit(RLIMIT_NOFILE, &limit) < 0) return fail("too many processes that fill this image were killed for another one to begin (the limit of descriptors is " + std::to_string(limit.rlim_max) + "): end the containers that stand on it", EMFILE);
  Fd null = TRY(open_file("/dev/null", O_RDONLY));
  for (int fd = 0; fd < static_cast<int>(first); fd = TRY(duplicate(null.get())).release()) continue;
  return {};
}

/// A layer, and which of its chunks are there.
class Layer {
 public:
  Layer(std::string diff_id, image::LazySource source, image::ChunkTable table, Fd file) : diff_id_(std::move(diff_id)), source_(std::move(source)), table_(std::move(table)), file_(std::move(file)), states_(table_.chunks.size()) {
    struct stat st = {};
    if (::fstat(file_.get(), &st) == 0) device_ = st.st_dev, inode_ = st.st_ino;
  }

  [[nodiscard]] const std::string& diff_id() const { return diff_id_; }
  [[nodiscard]] const image::LazySource& source() const { return source_; }
  [[nodiscard]] const image::ChunkTable& table() const { return table_; }
  [[nodiscard]] int file() const { return file_.get(); }
  /// Whether it is a layer like others by now.
  bool complete = false;
  [[nodiscard]] bool is(int file) const {
    struct stat st;
    return ::fstat(file, &st) == 0 && st.st_dev == device_ && st.st_ino == inode_;
  }

  /// One for a thread. To find out how a registry is spoken with takes some 50 ms, once.
  Result<registry::Client> connect() {
    std::lock_guard lock(client_mutex_);
    if (!client_) {
      registry::Options options;
      options.verify_tls = source_.verify_tls;
      client_ = TRY(registry::Client::open(source_.host, options));
    }
    return client_->another();
  }

  /// Makes sure that a part is there. In any thread, with a client of its own.
  Result<> fill(uint64_t offset, uint64_t size, std::optional<registry::Client>& client) {
    if (offset >= table_.tar_size || size == 0) return {};
    uint64_t last = offset + std::min(size, table_.tar_size - offset) - 1;
    for (size_t chunk = offset / table_.chunk_size; chunk <= last / table_.chunk_size; ++chunk)
      TRY(make(chunk, [&]() -> Result<std::optional<std::string>> {
        if (is_here(chunk)) return std::nullopt;
        auto fetched = fetch(chunk, client);
        note(fetched.has_value());
        return TRY(std::move(fetched));
      }));
    return {};
  }
  /// Milliseconds for which nothing could be fetched of it, though somebody wanted to.
  [[nodiscard]] int64_t failing_for() {
    std::lock_guard lock(mutex_);
    return failing_since_ == 0 ? 0 : monotonic_ms() - failing_since_;
  }

  /// Who has read a chunk will often want those behind it as well.
  void read_ahead(uint64_t offset, uint64_t size, std::optional<registry::Client>& client) {
    constexpr uint64_t kChunks = 2;
    (void)fill(((offset + std::max<uint64_t>(size, 1) - 1) / table_.chunk_size + 1) * table_.chunk_size, kChunks * table_.chunk_size, client);
  }

  /// Takes a chunk as it comes in the whole tar.
  Result<> take(size_t chunk, const std::string& data) {
    return make(chunk, [&]() -> Result<std::optional<std::string>> {
      if (oci::Digest::of(data) != table_.chunks[chunk].digest) return fail("chunk " + std::to_string(chunk) + " of layer " + source_.blob.str() + " is not what its index says", EBADMSG);
      return data;
    });
  }

 private:
  enum class State : uint8_t { unknown,
                               busy,
                               there };

  void note(bool fetched) {
    std::lock_guard lock(mutex_);
    int64_t now = monotonic_ms();
    // What failed long ago says nothing about now.
    if (failing_since_ == 0 || now - last_failure_ > kPatience) failing_since_ = now;
    last_failure_ = now;
    if (fetched) failing_since_ = 0;
  }

  Result<std::string> fetch(size_t chunk, std::optional<registry::Client>& client) {
    if (!client) client = TRY(connect());
    const auto& c = table_.chunks[chunk];
    return image::unpack_chunk(TRY(client->blob_part(source_.repository, source_.blob, c.offset, c.size)), table_, chunk);
  }

  /// `get`: its content, checked; nothing where it is there already.
  template <class Get>
  Result<> make(size_t chunk, Get&& get) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return states_[chunk] != State::busy; });
      if (states_[chunk] == State::there) return {};
      states_[chunk] = State::busy;
    }
    auto done = [&]() -> Result<> {
      auto data = TRY(get());
      return data ? write(table_.begin(chunk), *data) : Result<>();
    }();
    std::lock_guard lock(mutex_);
    states_[chunk] = done ? State::there : State::unknown;
    changed_.notify_all();
    return done;
  }

  Result<> write(uint64_t offset, std::string_view data) {
    while (!data.empty()) {
      ssize_t n = ::pwrite(file_.get(), data.data(), data.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno("write layer " + diff_id_.substr(0, 12));
      data.remove_prefix(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return {};
  }

  /// From an earlier filler. What a power cut has left is not trusted.
  bool is_here(size_t chunk) {
    auto begin = static_cast<off_t>(table_.begin(chunk));
    uint64_t size = table_.size_of(chunk);
    off_t data = ::lseek(file_.get(), begin, SEEK_DATA);
    if (data < 0 || data >= begin + static_cast<off_t>(size)) return false;
    std::string there(size, '\0');
    image::FdSource source(file_.get(), diff_id_, static_cast<uint64_t>(begin), size);
    for (size_t have = 0; have < size;) {
      auto n = source.read(there.data() + have, size - have);
      if (!n) return false;
      have += *n;
    }
    return oci::Digest::of(there) == table_.chunks[chunk].digest;
  }

  std::string diff_id_;
  image::LazySource source_;
  image::ChunkTable table_;
  Fd file_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<State> states_;
  std::mutex client_mutex_;
  std::optional<registry::Client> client_;
  int64_t failing_since_ = 0, last_failure_ = 0;  // when, in ms
};

/// Cuts a tar into a layer's chunks.
class ChunkSink : public image::Sink {
 public:
  ChunkSink(Layer& layer, const image::LayerStore& layers) : layer_(layer), layers_(layers) {}
  Result<> write(std::string_view data) override {
    while (!data.empty()) {
      if (next_ == layer_.table().chunks.size()) return fail("layer " + layer_.source().blob.str() + " is larger than its chunk index says", EBADMSG);
      size_t size = layer_.table().size_of(next_), n = std::min(size - chunk_.size(), data.size());
      chunk_.append(data, 0, n);
      data.remove_prefix(n);
      if (chunk_.size() < size) continue;
      if (!layers_.knows(layer_.diff_id())) return fail("it was removed", ENOENT);
      TRY(layer_.take(next_++, chunk_));
      chunk_.clear();
    }
    return {};
  }
  Result<> finish() const { return next_ == layer_.table().chunks.size() ? Result<>() : fail("layer " + layer_.source().blob.str() + " is smaller than its chunk index says", EBADMSG); }

 private:
  Layer& layer_;
  const image::LayerStore& layers_;
  std::string chunk_;
  size_t next_ = 0;
};

class Filler {
 public:
  explicit Filler(const FillerOptions& options) : options_(options), layers_(options.root + "/layers"), group_(Fd()) {}

  Result<int> run() {
    ::prctl(PR_SET_NAME, "caisson-filler");
    auto lower = TRY(layers_.find(options_.diff_ids));
    LazyImage image({options_.root, options_.run_root}, lower, options_.diff_ids);
    auto lock = image.begin();
    if (!lock) return report("ok"), 0;  // another one was first
    // Whoever waits for this process waits for nothing else.
    (void)write_file("/proc/self/oom_score_adj", "-900");
    Fd held = image.held_group();
    uint32_t first_number = TRY(image.take_numbers(kMostNumbers, held.valid()));
    if (!layers_.expects_any(options_.diff_ids)) {
      // The one before was killed when it had done all but say so.
      if (held.valid()) sys::PreAccess(std::move(held)).end(static_cast<int>(first_number));
      return report("ok"), 0;
    }
    TRY(occupy_below(first_number));
    group_ = held.valid() ? sys::PreAccess(std::move(held)) : TRY(sys::PreAccess::open());
    for (const auto& id : options_.diff_ids)
      if (layers_.expects(id) && std::none_of(lazy_.begin(), lazy_.end(), [&](const Layer& l) { return l.diff_id() == id; })) TRY(add_layer(id));
    Fd mount = TRY(image::mount_index(lower, true));
    TRY(image.set_ready(mount.get(), group_.fd()));
    report("ok");
    auto done = serve(image);
    // With what those before had been told of and had not answered to.
    if (done) group_.end(static_cast<int>(first_number));
    image.set_ended();
    return done ? Result<int>(0) : Result<int>(detail::propagate(std::move(done).error()));
  }

  void report(const std::string& text) {
    if (options_.report_fd < 0) return;
    (void)write_all(options_.report_fd, text);
    ::close(std::exchange(options_.report_fd, -1));
  }

 private:
  Result<> add_layer(const std::string& id) {
    auto expected = TRY(layers_.expected(id));
    image::FdSource packed(expected.file.get(), id, expected.index_at, expected.index_size);
    auto table = TRY(image::ChunkIndex::open(packed), "layer sha256:" + id).table();
    Fd file = TRY(group_.watch(layers_.lazy_path(id)));
    lazy_.emplace_back(id, std::move(expected.source), std::move(table), std::move(file));
    return {};
  }

  /// Until all is there, or nobody wants it.
  Result<> serve(const LazyImage& image) {
    wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_.valid()) return fail_errno("eventfd");
    std::vector<std::jthread> workers;
    for (unsigned i = 0; i < std::clamp(std::thread::hardware_concurrency() * 2, 4u, 16u); ++i)
      workers.emplace_back([this] { work(); });
    workers.emplace_back([this, &image] { fill_rest(image); });
    auto done = [&]() -> Result<> {
      while (!rest_done_) {
        while (waiting_ < kMostAtOnce) {
          auto access = TRY(group_.next());
          if (!access) break;
          ++waiting_;
          last_access_ = monotonic_ms();
          std::lock_guard lock(mutex_);
          accesses_.push_back(std::move(*access));
          changed_.notify_one();
        }
        struct pollfd ready[2] = {{wake_.get(), POLLIN, 0}, {group_.fd(), POLLIN, 0}};
        bool full = waiting_ >= kMostAtOnce;
        if (::poll(ready, full ? 1 : 2, full ? 1 : -1) < 0 && errno != EINTR) return fail_errno("poll");
      }
      return {};
    }();
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
      ending_.notify_all();
    }
    workers.clear();
    if (!done) return done;
    return give_up_ ? Result<>(detail::propagate(Error(*give_up_))) : Result<>();
  }

  void work() {
    std::map<const Layer*, std::optional<registry::Client>> clients;
    for (;;) {
      sys::PreAccess::Access access;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return ended_ || !accesses_.empty(); });
        if (accesses_.empty()) return;
        access = std::move(accesses_.front());
        accesses_.pop_front();
      }
      answer(access, clients);
      --waiting_;
    }
  }

  void answer(const sys::PreAccess::Access& access, std::map<const Layer*, std::optional<registry::Client>>& clients) {
    auto layer = std::find_if(lazy_.begin(), lazy_.end(), [&](const Layer& l) { return l.is(access.file.get()); });
    // The filler of another image that has it as well has filled it.
    if (layer == lazy_.end()) return group_.allow(access.file.get());
    auto& client = clients[&*layer];
    for (;;) {
      auto filled = layer->fill(access.offset, access.size, client);
      if (filled) {
        group_.allow(access.file.get());
        return layer->read_ahead(access.offset, access.size, client);
      }
      client.reset();
      // A disk does not get better by waiting.
      int code = filled.error().code;
      if (code == ENOSPC || code == EDQUOT || code == EIO || layer->failing_for() > kPatience) {
        log::error("somebody reads what cannot be fetched: " + filled.error().message);
        return group_.refuse(access.file.get(), EIO);
      }
      pause(500);
    }
  }

  /// Ends early where the process is to end.
  void pause(int64_t milliseconds) {
    std::unique_lock lock(mutex_);
    ending_.wait_for(lock, std::chrono::milliseconds(milliseconds), [&] { return ended_.load(); });
  }

  // --- the background

  void fill_rest(const LazyImage& image) {
    // Found out before somebody waits for it.
    for (auto& layer : lazy_) (void)layer.connect();
    pause(kHeadStart);
    for (int64_t wait = kShortest; !ended_; wait = std::min(wait * 2, kLongest)) {
      auto done = fill_all();
      if (done) break;
      log::error("the rest of the image: " + done.error().message);
      // Readers still get what is sound. Without any, the next start tries again.
      bool wanted = std::any_of(lazy_.begin(), lazy_.end(), [&](const Layer& l) { return layers_.knows(l.diff_id()); });
      while (done.error().code == EBADMSG && wanted && image.held()) pause(kLongest);
      if (!wanted || !image.held()) {
        give_up_ = done.error();
        break;
      }
      pause(wait);
    }
    rest_done_ = true;
    uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  Result<> fill_all() {
    auto store = TRY(image::Store::open(options_.root));
    for (auto& layer : lazy_) TRY(fill_layer(store, layer), "layer " + layer.source().blob.str());
    return layers_.renew_index(options_.diff_ids);
  }

  Result<> fill_layer(image::Store& store, Layer& layer) {
    if (layer.complete) return {};
    if (!layers_.knows(layer.diff_id())) return fail("it was removed", ENOENT);
    const image::LazySource& source = layer.source();
    std::string path = TRY(store.download_path(source.blob));
    // Somebody else may fetch it as a whole.
    FileLock lock = TRY(FileLock::acquire(path + ".lock"));
    oci::Descriptor blob;
    blob.digest = source.blob;
    blob.size = source.size;
    bool there = exists(store.own_blob_path(blob.digest));
    oci::Digest diff_id = TRY(oci::Digest::from_hex(layer.diff_id()));
    auto fill = [&](image::Source& in) -> Result<> {
      auto plain = TRY(image::decompress(in));
      image::HashingSource hashed(*plain, diff_id.algorithm());
      ChunkSink chunks(layer, layers_);
      TRY(image::copy(hashed, chunks));
      TRY(chunks.finish());
      if (hashed.digest() != diff_id) return fail("its content does not have the diff id " + diff_id.str() + " that the image's config names", EBADMSG);
      image::HashingSource rest(in);
      return rest.drain();
    };
    if (there) {
      Fd file = TRY(open_file(store.own_blob_path(blob.digest), O_RDONLY));
      image::FdSource content(file.get(), blob.digest.str(), 0, blob.size);
      TRY(fill(content));
    } else {
      auto client = TRY(layer.connect());
      TRY(registry::fetch_blob(
          client, source.repository, blob, path, [&](uint64_t) { let_others_go_first(); }, fill));
    }
    if (::fsync(layer.file()) < 0) return fail_errno("fsync " + layers_.lazy_path(layer.diff_id()));
    if (!there) {
      auto writer = TRY(store.begin());
      TRY(writer.take_blob(blob, path));
      TRY(writer.commit());
    }
    TRY(layers_.complete(layer.diff_id()));
    group_.leave(layer.file());
    layer.complete = true;
    ::unlink((path + ".lock").c_str());
    return {};
  }

  void let_others_go_first() const {
    constexpr int64_t kMost = 100;  // ms; who waits longer waits for a registry that does not answer
    while (waiting_ > 0 && !ended_ && monotonic_ms() - last_access_ < kMost) ::usleep(1000);
  }

  FillerOptions options_;
  image::LayerStore layers_;
  sys::PreAccess group_;
  std::list<Layer> lazy_;
  Fd wake_;
  std::mutex mutex_;
  std::condition_variable changed_, ending_;
  std::deque<sys::PreAccess::Access> accesses_;
  std::atomic<int> waiting_ = 0;
  std::atomic<int64_t> last_access_ = 0;  // when, in ms
  std::atomic<bool> ended_ = false, rest_done_ = false;
  std::optional<Error> give_up_;
};

}  // namespace

Result<int> run_filler(const FillerOptions& options) {
  Filler filler(options);
  auto done = filler.run();
  if (!done) filler.report(done.error().message);
  return done;
}

}  // namespace caisson::lazy
