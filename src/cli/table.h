// Columns as wide as what is in them.
#pragma once

#include <string>
#include <vector>

namespace caisson::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace caisson::cli
