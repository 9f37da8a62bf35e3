#include <gtest/gtest.h>

#include "base/strings.h"
#include "build/builder_internal.h"
#include "build/cache.h"
#include "build/git.h"
#include "scratch.h"

using namespace caisson;
using namespace caisson::build;

namespace {
const Lookup kLookup = [](const std::string& name) -> std::optional<std::string> {
  if (name == "A") return "a value";
  if (name == "EMPTY") return "";
  return std::nullopt;
};
std::string expanded(const std::string& text) {
  auto out = expand(text, kLookup, '\\');
  return out ? *out : "error: " + out.error().message;
}
std::string error_of(std::string_view text) {
  auto file = parse_dockerfile(text, "F");
  return file ? "" : file.error().message;
}
}  // namespace

TEST(Dockerfile, LinesContinueAndCommentsGo) {
  auto file = parse_dockerfile("# a comment\nFROM  x:1 AS Base\nRUN one \\\n  # not part of it\n\n  two\n\tEXPOSE 80\n", "F");
  ASSERT_TRUE(file) << file.error().message;
  ASSERT_EQ(file->instructions.size(), 3u);
  EXPECT_EQ(file->instructions[1].text, "one   two");
  EXPECT_EQ(file->instructions[2].at.say("here"), "F:7:2: here");
}

TEST(Dockerfile, TheEscapeCanBeChanged) {
  auto file = parse_dockerfile("# escape=`\nFROM x\nCOPY c:\\ `\n d:\\\n", "F");
  ASSERT_TRUE(file);
  EXPECT_EQ(file->instructions[1].text, "c:\\  d:\\");
  EXPECT_EQ(error_of("# escape=x\nFROM y"), "F:1:1: escape: \"x\" is neither \\ nor `");
}

TEST(Dockerfile, HeredocsAreTaken) {
  auto file = parse_dockerfile("FROM x\nRUN <<EOF cat && cat <<-'B'\n$A\nEOF\n\t\tb\n\tB\nRUN echo '<<no' a<<no \\<<no\n", "F");
  ASSERT_TRUE(file) << file.error().message;
  const auto& documents = file->instructions[1].heredocs;
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].content, "$A\n");
  EXPECT_TRUE(documents[0].expand);
  EXPECT_EQ(documents[1].content, "b\n");
  EXPECT_FALSE(documents[1].expand);
  EXPECT_TRUE(file->instructions[2].heredocs.empty());
}

TEST(Dockerfile, FlagsAndTheJsonForm) {
  auto file = parse_dockerfile("FROM x\nCOPY --from=b --chown=1:2 [\"a b\", \"c\"]\nRUN --mount=type=tmpfs,target=/t --mount=target=/u x\nCMD [\"a\", 1]\n", "F");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->instructions[1].flag("from"), "b");
  EXPECT_EQ(file->instructions[1].list->at(0), "a b");
  EXPECT_EQ(file->instructions[2].flags.at("mount").size(), 2u);
  EXPECT_FALSE(file->instructions[3].list) << "no list of strings: the shell form, as Docker has it";
}

TEST(Dockerfile, ErrorsSayWhere) {
  EXPECT_EQ(error_of("FROM x\n\n  BAKE a"), "F:3:3: unknown instruction: BAKE");
  EXPECT_EQ(error_of("FROM x\nCOPY --form=a b c"), "F:2:6: COPY: unknown flag --form");
  EXPECT_EQ(error_of("FROM x\nRUN <<E\na"), "F:2:5: unterminated heredoc: no line says E");
  EXPECT_EQ(error_of("FROM x\nRUN"), "F:2:1: RUN requires at least one argument");
  EXPECT_EQ(error_of("# nothing\n"), "F: has no instructions");
  EXPECT_EQ(error_of("FROM x\n\\\n"), "F:2:1: an instruction is expected here, and nothing follows");
  EXPECT_NE(error_of(std::string("FROM x\0y", 8)), "");
}

TEST(Words, VariablesAndQuotes) {
  EXPECT_EQ(expanded("$A/${A}x$$A"), "a value/a valuex$a value");
  EXPECT_EQ(expanded("'$A' \"$A\" \\$A"), "$A a value $A");
  EXPECT_EQ(expanded("${NO:-$A} ${EMPTY:-x} ${EMPTY-x}|${A:+y}|${NO+y}"), "a value x |y|");
  EXPECT_EQ(expanded("${NO:?must be set}"), "error: NO: must be set");
  EXPECT_NE(expanded("${A").find("error"), std::string::npos);
  EXPECT_NE(expanded("${A%x}").find("unsupported modifier"), std::string::npos);
  EXPECT_NE(expanded("\"open").find("double-quote"), std::string::npos);
  auto words = expand_words("a 'b c' $A", kLookup, '\\');
  ASSERT_TRUE(words);
  EXPECT_EQ(*words, (std::vector<std::string>{"a", "b c", "a value"}));
  EXPECT_EQ(expand_plain("\"$A\" \\n '$A' \\$A", kLookup, '\\').value_or(""), "\"a value\" \\n 'a value' $A");
  EXPECT_EQ(raw_words("a=\"b c\" d=e\\ f", '\\'), (std::vector<std::string>{"a=\"b c\"", "d=e\\ f"}));
}

TEST(Patterns, AsInDockerignore) {
  for (const auto& [pattern, path] : std::vector<std::pair<const char*, const char*>>{{"*.md", "a.md"}, {"**/*.o", "x/y/z.o"}, {"**/*.o", "z.o"}, {"a/**", "a/b/c"}, {"a/?", "a/b"}, {"[a-c]x", "bx"}, {".*", ".git"}}) EXPECT_TRUE(path_matches(pattern, path)) << pattern << " " << path;
  for (const auto& [pattern, path] : std::vector<std::pair<const char*, const char*>>{{"*.md", "x/a.md"}, {"a/?", "a/bc"}, {"a", "ab"}, {"*/b", "b"}}) EXPECT_FALSE(path_matches(pattern, path)) << pattern << " " << path;
  auto rules = IgnoreRules::parse("# comment\n*.log\n/build\n!build/keep.txt\n**/tmp\n");
  for (const char* path : {"a.log", "build", "build/x", "build/a/b", "a/b/tmp", "a/tmp/x"}) EXPECT_TRUE(rules.ignores(path)) << path;
  for (const char* path : {"x/a.log", "build/keep.txt", "a", "tmpx"}) EXPECT_FALSE(rules.ignores(path)) << path;
}

TEST(Stages, NamesNumbersAndArguments) {
  auto stages = divide(*parse_dockerfile("ARG V=1\nARG W=${V}2\nFROM a:$W AS One\nFROM one\nFROM 0 AS three\n", "F"), {{"V", "5"}});
  ASSERT_TRUE(stages) << stages.error().message;
  EXPECT_EQ(stages->stages[0].base, "a:52");
  EXPECT_EQ(stages->stages[1].base_stage, 0);
  EXPECT_EQ(stages->stages[2].base_stage, -1) << "an image of that name";
  EXPECT_EQ(stages->find("ONE", 3), 0);
  EXPECT_EQ(stages->find("1", 3), 1);
  EXPECT_EQ(stages->find("three", 2), -1) << "those before alone";
  for (const char* text : {"RUN x", "FROM a b", "ARG A\nENV a=b\nFROM x", "FROM $NO", "FROM --platform=linux/arm64 x"}) EXPECT_FALSE(divide(*parse_dockerfile(text, "F"), {})) << text;
}

TEST(Git, AddressesOfRepositories) {
  auto whole = git_source("https://example.org/a/x.git#v1:docs/api");
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->url + " " + whole->ref + " " + whole->folder, "https://example.org/a/x.git v1 docs/api");
  EXPECT_EQ(git_source("git@example.org:x#:docs")->folder, "docs");
  for (const char* text : {"git://h/x", "ssh://git@h/x", "http://h/x.git", "git@h:x"}) EXPECT_TRUE(git_source(text)) << text;
  for (const char* text : {"https://h/x.tar.gz", "https://h/x.github", "./x.git", "x.git", "--upload-pack=x", "ftp://h/x.git", "github.com/a/x"}) EXPECT_FALSE(git_source(text)) << text;
  EXPECT_EQ(git_source("github.com/a/x#main", true)->url, "https://github.com/a/x");
}

TEST(Configuration, InstructionsChangeIt) {
  Stages stages;
  State state;
  auto apply = [&](const std::string& line) {
    auto done = change_config(*parse_instruction(line, '\\', {"F", 1, 1}), stages, {}, state);
    EXPECT_TRUE(done) << line << ": " << (done ? "" : done.error().message);
  };
  state.config.cmd = {"of the base"};
  for (const char* line : {"ENV A=1 B=\"two words\"", "ENV C the rest of it", "ENV A=2 D=$A", "LABEL x=\"y z\"", "EXPOSE 80 53/udp 9000-9001", "VOLUME /a /b", "SHELL [\"/bin/bash\", \"-c\"]", "ENTRYPOINT run this", "USER app", "STOPSIGNAL SIGQUIT", "HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost", "ONBUILD RUN x"}) apply(line);
  EXPECT_EQ(state.config.env, (std::vector<std::string>{"A=2", "B=two words", "C=the rest of it", "D=1"}));
  EXPECT_EQ(state.config.labels["x"], "y z");
  EXPECT_EQ(state.config.exposed_ports, (std::vector<std::string>{"53/udp", "80/tcp", "9000/tcp", "9001/tcp"}));
  EXPECT_EQ(state.config.entrypoint, (std::vector<std::string>{"/bin/bash", "-c", "run this"}));
  EXPECT_TRUE(state.config.cmd.empty()) << "the base's was meant for the base's entry point";
  EXPECT_EQ(json_text(state.config.healthcheck), R"({"Test":["CMD-SHELL","curl localhost"],"Interval":90000000000,"Retries":2})");
  auto back = oci::parse_image_config(json_text(oci::to_json(state.config)), "config");
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->healthcheck, state.config.healthcheck);
  EXPECT_EQ(back->on_build, std::vector<std::string>{"RUN x"});
  EXPECT_EQ(back->shell, state.config.shell);
  for (const char* line : {"ENV =x", "EXPOSE 0", "EXPOSE 80/icmp", "EXPOSE 9-8", "SHELL bash", "HEALTHCHECK --interval=5 CMD x", "HEALTHCHECK TRY x", "ONBUILD ONBUILD RUN x", "ONBUILD FROM x", "VOLUME \"\""})
    EXPECT_FALSE(change_config(*parse_instruction(line, '\\', {"F", 1, 1}), stages, {}, state)) << line;
}

TEST(BuildCache, RemembersStepsAndSurvivesDamage) {
  Scratch scratch;
  BuildCache cache(scratch.path());
  Json step{{"run", "x"}};
  EXPECT_FALSE(cache.find(step));
  ASSERT_TRUE(cache.add(step, {"ab", 5, "2026-01-01T00:00:00Z", {"cd", "ab"}}));
  ASSERT_TRUE(cache.find(step));
  EXPECT_EQ(cache.find(step)->stack, (std::vector<std::string>{"cd", "ab"}));
  EXPECT_FALSE(cache.find({{"run", "y"}}));
  EXPECT_EQ(cache.stacks().size(), 1u);
  auto names = list_dir(scratch.path() + "/build-cache/steps");
  ASSERT_TRUE(replace_file(scratch.path() + "/build-cache/steps/" + names->at(0), "{\"layer\": 7"));
  EXPECT_FALSE(cache.find(step));
  EXPECT_TRUE(cache.stacks().empty());
  ASSERT_TRUE(cache.clear());
}
