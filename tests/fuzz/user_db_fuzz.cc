// /etc/passwd and /etc/group of a container, and the text of --user.
#include "../unit/scratch.h"
#include "sys/user_db.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace caisson;
  std::string text(reinterpret_cast<const char*>(data), size);
  size_t cut = text.find('\0');
  static Scratch dir;
  (void)make_dirs(dir / "etc");
  std::string files = cut == std::string::npos ? "" : text.substr(cut + 1);
  (void)replace_file(dir / "etc/passwd", files);
  (void)replace_file(dir / "etc/group", files);
  auto root = sys::RootDir::open(dir.path());
  (void)sys::resolve_user(*root, text.substr(0, cut));
  return 0;
}
