#include <gtest/gtest.h>

#include <cstdlib>

#include "base/fd.h"
#include "http/connection.h"
#include "http/url.h"
#include "registry/credentials.h"
#include "registry/shelf.h"
#include "scratch.h"

using namespace caisson;
using namespace caisson::http;

TEST(Urls, ArePartedAndPutTogether) {
  auto url = parse_url("https://registry.example:5000/v2/a?b=c#d");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->host + " " + std::to_string(url->port) + " " + url->target, "registry.example 5000 /v2/a?b=c");
  EXPECT_EQ(url->str(), "https://registry.example:5000/v2/a?b=c");
  EXPECT_EQ(parse_url("http://[::1]:80").value_or(Url{}).authority(), "[::1]");
  EXPECT_EQ(parse_url("http://host?q").value_or(Url{}).target, "/?q");
  for (const char* text : {"", "host/path", "ftp://host", "http://", "http://a b", "http://user@host", "http://host:70000", "http://[::1", "http://host/\r\nX: y"}) EXPECT_FALSE(parse_url(text)) << text;
}

TEST(Urls, LocationsAreSeenFromWhereTheyCame) {
  Url from = *parse_url("https://a.example/v2/x/uploads/?q=/");
  auto to = [&](const char* location) { return resolve(from, location).value_or(Url{}).str(); };
  EXPECT_EQ(to("/up/1?s=2"), "https://a.example/up/1?s=2");
  EXPECT_EQ(to("1"), "https://a.example/v2/x/uploads/1");
  EXPECT_EQ(to("//b.example/z"), "https://b.example/z");
  EXPECT_EQ(to("http://c.example:81/"), "http://c.example:81/");
  EXPECT_FALSE(from.same_origin(*parse_url("http://a.example/")));
}

TEST(Text, Base64AndPercents) {
  for (const char* text : {"", "a", "ab", "abc", "abcd", "user:p\xc3\xa4ss"}) EXPECT_EQ(from_base64(base64(text)).value_or("-"), text);
  EXPECT_EQ(base64("Man"), "TWFu");
  EXPECT_EQ(base64("Ma"), "TWE=");
  EXPECT_FALSE(from_base64("a*b"));
  EXPECT_EQ(percent_encoded("a b/:~"), "a%20b%2f%3a~");
}

TEST(Proxies, AreAskedOnlyForOthers) {
  ::setenv("https_proxy", "http://proxy:3128", 1);
  ::setenv("no_proxy", ".inner.example, 10.0.0.1", 1);
  auto of = [](const char* text) { return proxy_for(*parse_url(text)); };
  EXPECT_EQ(of("https://a.example/"), "http://proxy:3128");
  EXPECT_EQ(of("https://x.inner.example/") + of("https://10.0.0.1/") + of("https://localhost:5000/") + of("https://127.0.0.5/"), "");
  ::unsetenv("https_proxy");
  ::unsetenv("no_proxy");
  EXPECT_EQ(of("https://a.example/"), "");
}

TEST(Shelf, KeepsWhatWasSaid) {
  Scratch scratch;
  auto shelf = registry::Shelf::open(scratch.path() + "/shelf");
  ASSERT_TRUE(shelf);
  auto put = [&](const std::string& repository, const std::string& text) {
    auto id = shelf->begin_upload(repository);
    auto upload = shelf->upload(repository, *id);
    EXPECT_TRUE(write_all(upload->file.get(), text));
    upload->size = text.size();
    return shelf->finish_upload(repository, *id, std::move(*upload), oci::Digest::of("content"));
  };
  ASSERT_TRUE(put("a/b", "content"));
  EXPECT_EQ(put("a/b", "other").error().code, EBADMSG);
  EXPECT_TRUE(shelf->has_blob("a/b", oci::Digest::of("content")));
  EXPECT_FALSE(shelf->has_blob("a", oci::Digest::of("content")));
  EXPECT_FALSE(shelf->upload("a/b", "../../x"));
  EXPECT_FALSE(shelf->upload("a/b", std::string(32, '0')));
  EXPECT_EQ(shelf->repositories(), std::vector<std::string>{"a/b"});
  std::string text = R"({"fsLayers":[{"blobSum":")" + oci::Digest::of("content").str() + R"("}]})";
  registry::Shelf::Manifest manifest{"a/b", text, oci::Digest::of(text)};
  ASSERT_TRUE(shelf->put_manifest("a/b", "one", manifest, std::nullopt));
  EXPECT_EQ(shelf->manifest("a/b", "one").value_or(registry::Shelf::Manifest{}).text, text);
  EXPECT_EQ(shelf->manifest("a/b", "two").error().code, ENOENT);
  EXPECT_EQ(shelf->held("a/b"), text.size() + 7);
  EXPECT_EQ(shelf->collect(0).value_or(99), 0u) << "a manifest names it";
  EXPECT_TRUE(shelf->has_blob("a/b", oci::Digest::of("content")));
  ASSERT_TRUE(shelf->remove_manifest("a/b", manifest.digest.str()));
  EXPECT_TRUE(shelf->tags("a/b")->empty());
  EXPECT_EQ(shelf->collect(3600).value_or(99), 0u) << "it is young";
  EXPECT_EQ(shelf->collect(0).value_or(99), text.size() + 7);
  EXPECT_FALSE(shelf->has_blob("a/b", oci::Digest::of("content")));
}
