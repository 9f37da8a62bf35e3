#include "capture/verify.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <optional>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "capture/bpf_watcher.h"
#include "capture/requests.h"

namespace caisson::capture {
namespace {

std::string host_name() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

/// What a check says: its exit status and output.
Result<std::string> run_check(const std::string& command) {
  SpawnOptions options;
  options.argv = {"timeout", "60", "/bin/sh", "-c", command};
  auto output = TRY(run_and_capture(options, 4u << 20), "--check");
  return "exit status " + std::to_string(output.status.code) + "\n" + output.out;
}

Json to_json(const Answer& answer) {
  const Question& q = answer.question;
  return {{"port", q.port}, {"address", q.address}, {"name", q.name}, {"bytes", to_hex(q.bytes)}, {"protocol", q.protocol}, {"first", answer.text}};
}

/// Text from hexadecimal, as to_json() wrote it.
std::string from_hex(const std::string& text) {
  std::string out;
  for (size_t i = 0; i + 1 < text.size(); i += 2) out += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return out;
}

/// Asks again what was asked before. Runs in: the network namespace.
std::string ask_again(const Json& asked) {
  if (asked.contains("check")) return run_check(asked["check"].get<std::string>()).value_or("");
  Question question{asked["port"].get<uint16_t>(), asked["address"].get<std::string>(), asked["name"].get<std::string>(), "", asked["protocol"].get<std::string>()};
  if (asked.contains("turns")) {
    std::vector<Turn> turns;
    for (const auto& turn : asked["turns"]) turns.push_back({from_hex(turn["said"].get<std::string>()), from_hex(turn["heard"].get<std::string>())});
    return converse(question, turns);
  }
  question.bytes = from_hex(asked["bytes"].get<std::string>());
  return ask(question);
}

/// Whether it was recorded, and is only heard again of the capture.
bool is_conversation(const Json& asked) { return asked.contains("turns"); }

/// Whether its answers may hold what belongs to one visitor.
bool is_private(const Json& asked) { return is_conversation(asked) || (asked.contains("private") && asked["private"].get<bool>()); }

/// What visitors asked, with what they heard: the original is not asked again for that.
void add_recorded(const Json& recorded, Json& found) {
  for (Json asked : recorded) {
    if (is_conversation(asked)) {
      std::string all;
      for (const auto& turn : asked["turns"]) all += from_hex(turn["heard"].get<std::string>());
      asked["first"] = asked["second"] = std::move(all);
    } else {
      asked["first"] = from_hex(asked["heard"].front().get<std::string>());
      asked["second"] = from_hex(asked["heard"].back().get<std::string>());
    }
    found.push_back(std::move(asked));
  }
}

/// A capture that runs, watched from its first instruction on where BPF is allowed.
class Run {
 public:
  Run(const VerifyRequest& request, Runner& runner) : request_(request), runner_(runner) {
    if (auto bpf = BpfWatcher::open(); bpf) {
      bpf_ = std::move(*bpf);
      // The program that runs containers is executed first.
      bpf_->skip_program("/proc/self/exe");
    }
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  ~Run() {
    if (!id_.empty()) runner_.remove(id_);
  }

  Result<> start(bool read_only, bool confined) {
    Runner::Options options = request_.run;
    options.read_only = read_only;
    if (!confined) {
      options.capabilities.reset();
      options.seccomp = {};
    }
    id_ = TRY(runner_.create(options));
    // By a child, whose own children are followed.
    auto report = TRY(make_pipe()), hold = TRY(make_pipe());
    pid_t helper = ::fork();
    if (helper < 0) return fail_errno("fork");
    if (helper == 0) {
      char token;
      hold.write.reset();
      if (::read(hold.read.get(), &token, 1) != 1) ::_exit(1);
      auto started = runner_.start(id_);
      (void)write_all(report.write.get(), started ? std::to_string(*started) : "error " + started.error().message);
      ::_exit(0);
    }
    report.write.reset();
    if (bpf_) TRY(bpf_->follow(helper));
    (void)!::write(hold.write.get(), "", 1);
    std::string text = TRY(read_while_watching(report.read.get()));
    int status;
    ::waitpid(helper, &status, 0);
    if (text.starts_with("error ")) return fail(text.substr(6));
    pid_ = static_cast<pid_t>(TRY(parse_uint(text, INT32_MAX), "start the capture"));
    return {};
  }

  /// Until every port accepts; false where it ends before, or takes too long.
  Result<bool> wait_for_ports() {
    if (request_.ports.empty()) pause(2000);  // what does not stay has failed
    for (int64_t deadline = monotonic_ms() + int64_t{request_.timeout_seconds} * 1000; monotonic_ms() < deadline; pause(50)) {
      if (!runner_.running(id_)) return false;
      auto open = in_network_of(pid_, [&]() -> Result<Json> {
        for (const auto& p : request_.ports) make_local(p.address);
        return Json(std::all_of(request_.ports.begin(), request_.ports.end(), [](const Port& p) { return p.protocol != "tcp" || accepts(p.address, p.number); }));
      });
      if (open && open->get<bool>()) return true;
    }
    return false;
  }

  Result<Json> ask(const Json& questions) {
    return in_network_of(pid_, [&]() -> Result<Json> {
      Json out = Json::array();
      for (const auto& q : questions) out.push_back(ask_again(q));
      return out;
    });
  }

  /// The host name that the capture sees, which its answers may have.
  std::string name() const { return id_.substr(0, 12); }
  bool running() { return runner_.running(id_); }
  std::string output() { return runner_.output(id_); }
  /// What it does after the last answer, it does soon.
  void settle() {
    constexpr int kSettles = 300;  // ms
    pause(kSettles);
  }
  Trace take_trace() {
    if (!bpf_) return {};
    bpf_->handle();
    return std::exchange(bpf_->trace, {});
  }

 private:
  Result<std::string> read_while_watching(int report) {
    std::string text;
    for (;;) {
      struct pollfd ready[2] = {{report, POLLIN, 0}, {bpf_ ? bpf_->fd() : -1, POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno != EINTR) return fail_errno("poll");
      if (ready[1].revents != 0) bpf_->handle();
      if (ready[0].revents == 0) continue;
      char buffer[4096];
      ssize_t n = ::read(report, buffer, sizeof buffer);
      if (n == 0) return text;
      if (n > 0) text.append(buffer, static_cast<size_t>(n));
    }
  }
  void pause(int ms) {
    struct pollfd ready = {bpf_ ? bpf_->fd() : -1, POLLIN, 0};
    int64_t end = monotonic_ms() + ms;
    for (int64_t left = ms; left > 0; left = end - monotonic_ms())
      if (::poll(&ready, 1, static_cast<int>(left)) > 0 && bpf_) {
        bpf_->handle();
        ::usleep(5000);  // not for each event by itself
      }
  }

  const VerifyRequest& request_;
  Runner& runner_;
  std::unique_ptr<BpfWatcher> bpf_;
  std::string id_;
  pid_t pid_ = 0;
};

/// Whether the capture's answer is the original's.
bool says_the_same(const Json& asked, const std::string& captured, const std::string& host, const std::string& name) {
  auto same = [&](const std::string& original_name, const std::string& capture_name) {
    return same_answer(normalised(asked["first"].get<std::string>(), original_name), normalised(asked["second"].get<std::string>(), original_name), normalised(captured, capture_name));
  };
  // A host's name may also be a word of the answer.
  return same(host, name) || same("", "");
}

/// With the original's answer of now as the second one.
Result<Json> asked_once_more(Json asked, pid_t original) {
  asked["second"] = TRY(in_network_of(original, [&]() -> Result<Json> { return Json(ask_again(asked)); }), "ask the original once more").get<std::string>();
  return asked;
}

/// The first line that differs, for people.
std::string first_difference(const std::string& a, const std::string& b) {
  auto left = split(a, '\n'), right = split(b, '\n');
  for (size_t i = 0; i < std::max(left.size(), right.size()); ++i) {
    std::string l = i < left.size() ? left[i] : "", r = i < right.size() ? right[i] : "";
    if (l != r) return "\"" + std::string(trim(l)).substr(0, 160) + "\" became \"" + std::string(trim(r)).substr(0, 160) + "\"";
  }
  return "the same lines";
}

}  // namespace

Result<Original> Original::ask(const VerifyRequest& request) {
  Original out;
  out.answers_ = TRY(in_network_of(request.original, [&]() -> Result<Json> {
    // All at once: what is no server for any of this takes its time to say nothing.
    std::vector<std::future<std::vector<Answer>>> explored;
    for (const auto& port : request.ports) explored.push_back(std::async(std::launch::async, explore, port));
    Json found = Json::array();
    for (auto& port : explored)
      for (const auto& answer : port.get()) found.push_back(to_json(answer));
    for (const auto& check : request.checks) {
      std::string said = TRY(run_check(check));
      // sh(1): it could not be executed, or is not there. Two that fail so are no proof.
      for (const char* nothing : {"exit status 126\n", "exit status 127\n"})
        if (said.starts_with(nothing)) return fail("--check: \"" + check + "\" cannot be run" + std::string(said).substr(std::string_view(nothing).size() - 1) + " (what is installed for this capture is asked from inside it)");
      found.push_back({{"check", check}, {"name", check}, {"first", std::move(said)}});
    }
    for (auto& asked : found) asked["second"] = ask_again(asked);
    return found;
  }));
  add_recorded(request.recorded, out.answers_);
  return out;
}

Original Original::from(Json answers) {
  Original out;
  out.answers_ = std::move(answers);
  return out;
}

Result<Verdict> verify(const VerifyRequest& request, const Original& original, Runner& runner, const std::function<void(const std::string&)>& progress) {
  Verdict verdict;
  verdict.details = {{"read_only", false}, {"confined", false}, {"requests", Json::array()}};
  std::optional<Run> run;
  bool ready = false;
  std::string words, first_words;
  for (bool read_only : {true, false})
    for (bool confined : {true, false}) {
      if (ready || (confined && !request.run.capabilities)) continue;
      run.emplace(request, runner);
      auto started = run->start(read_only, confined);
      ready = started && TRY(run->wait_for_ports());
      verdict.trace.merge(run->take_trace());
      words = trim(started ? run->output() : started.error().message);
      if (first_words.empty()) first_words = words;
      if (!ready) continue;
      verdict.details["read_only"] = read_only;
      verdict.details["confined"] = confined;
    }
  if (!ready) {
    verdict.result = Verdict::Result::differs;
    verdict.summary = "the capture does not run" + (words.empty() ? "" : ": " + words.substr(words.size() > 400 ? words.size() - 400 : 0));
    return verdict;
  }
  if (!verdict.details["read_only"].get<bool>() || (request.run.capabilities && !verdict.details["confined"].get<bool>())) verdict.details["stricter_output"] = first_words.substr(0, 2000);

  verdict.ran = true;
  Json captured = TRY(run->ask(original.answers()), "ask the capture");
  if (!request.ports.empty()) run->settle();
  verdict.ended = !run->running();
  verdict.trace.merge(run->take_trace());
  size_t same = 0, number = 0, conversations = 0;
  std::string difference, host = host_name();
  for (const auto& asked : original.answers()) {
    const std::string said = captured[number++].get<std::string>();
    bool equal = says_the_same(asked, said, host, run->name());
    // Numbers count what was asked meanwhile. What differs more may do so each time: only then
    // is the original asked once more.
    bool forgiven = !equal && is_conversation(asked) && !said.empty();
    if (!equal && asked.contains("heard") && !said.empty()) {
      forgiven = masked(normalised(asked["first"].get<std::string>(), host)) == masked(normalised(said, run->name()));
      if (!forgiven) equal = says_the_same(TRY(asked_once_more(asked, request.original)), said, host, run->name());
    }
    std::string first = normalised(asked["first"].get<std::string>(), host), answer = normalised(said, run->name());
    Json entry{{"request", asked["name"]}, {"same", equal}};
    if (asked.contains("port")) entry["port"] = asked["port"];
    // What was said in between may have changed what is answered: it is told, not held
    // against the capture.
    if (forgiven) entry["not_repeatable"] = true;
    conversations += forgiven;
    if (!equal) {
      // Somebody's own data is nobody else's, and a report is read by others.
      if (is_private(asked)) first = std::to_string(first.size()) + " bytes, not shown", answer = std::to_string(answer.size()) + " bytes, not shown";
      entry["original"] = first.substr(0, 4000);
      entry["capture"] = answer.substr(0, 4000);
      if (difference.empty() && !forgiven) difference = asked["name"].get<std::string>() + ": " + (is_private(asked) ? "the answers are not shown, as they may be one visitor's own" : first_difference(first, answer));
    }
    verdict.details["requests"].push_back(std::move(entry));
    same += equal;
  }
  number -= conversations;
  progress("asked the capture " + std::to_string(number) + " times: " + std::to_string(same) + " answers are the original's");
  if (number == 0) {
    verdict.summary = request.ports.empty() ? "it runs; there is no port to ask, and no --check was given" : "it runs and opens its ports, which answer nothing that could be compared; give a --check";
  } else if (same == number && verdict.ended && !request.ports.empty()) {
    verdict.result = Verdict::Result::differs;
    verdict.summary = std::to_string(number) + " answers are the original's, and then it ended: " + std::string(trim(run->output()));
  } else if (same == number) {
    verdict.result = Verdict::Result::passed;
    verdict.summary = std::to_string(number) + " answers are the original's";
    if (conversations > 0) verdict.summary += "; " + std::to_string(conversations) + " recorded ones went another way, as the data has changed since or they cannot be repeated (--report)";
  } else {
    verdict.result = Verdict::Result::differs;
    verdict.summary = std::to_string(number - same) + " of " + std::to_string(number) + " answers differ; " + difference;
  }
  return verdict;
}

}  // namespace caisson::capture
