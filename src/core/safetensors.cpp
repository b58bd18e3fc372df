#include "core/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "core/byte_reader.hpp"
#include "core/file.hpp"
#include "core/json.hpp"

namespace strata {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the format's own limit
constexpr std::size_t max_stored_rank = 32;

/// Bytes an element; 0 for a dtype that the format does not have or that is not made of whole
/// bytes.
std::uint64_t stored_size(std::string_view dtype) {
  static constexpr std::pair<std::string_view, std::uint64_t> sizes[] = {
      {"F64", 8},  {"F32", 4}, {"F16", 2},     {"BF16", 2},   {"I64", 8}, {"I32", 4},
      {"I16", 2},  {"I8", 1},  {"U64", 8},     {"U32", 4},    {"U16", 2}, {"U8", 1},
      {"BOOL", 1}, {"C64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const auto& [name, size] : sizes)
    if (name == dtype) return size;
  return 0;
}

/// A text of the file's for a message: in quotes, on one line, not long.
std::string in_quotes(std::string_view text) {
  const auto cut = text.substr(0, 80);
  return json(cut).dump(-1, ' ', false, json::error_handler_t::replace);
}

/// Walks the header without building a document: what is kept is bounded by what was read.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  using Entries = std::map<std::string, SafetensorsFile::Entry>;
  HeaderReader(const std::string& path, Entries& entries, std::map<std::string, std::string>& meta)
      : path_(path), entries_(entries), metadata_(meta) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    fail(Exit::data, "{}: {}: negative number {}", path_, where(), value);
  }
  bool number_float(number_float_t, const string_t& text) override {
    fail(Exit::data, "{}: {}: {:.40} is not an integer", path_, where(), text);
  }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3) unexpected("a number");
    if (value > static_cast<std::uint64_t>(INT64_MAX))
      fail(Exit::data, "{}: {}: number {} is too large", path_, where(), value);
    if (numbers_.size() == max_stored_rank)
      fail(Exit::data, "{}: {}: more than {} numbers", path_, where(), max_stored_rank);
    numbers_.push_back(static_cast<std::int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ != 2 || (!in_metadata_ && field_ != "dtype")) unexpected("a string");
    if (in_metadata_) {
      if (!metadata_.emplace(field_, std::move(value)).second) twice(field_);
    } else {
      if (stored_size(value) == 0)
        fail(Exit::data, "{}: tensor {}: unknown dtype {}", path_, name_, in_quotes(value));
      entry_.dtype = std::move(value);
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ > 1) unexpected("an object");
    if (++depth_ == 2) {
      in_metadata_ = name_ == "__metadata__";
      entry_ = {};
      seen_.clear();
    }
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1) {
      for (unsigned char c : value)
        if (c < 0x20) fail(Exit::data, "{}: control character in a tensor's name", path_);
      name_ = std::move(value);
      field_.clear();
      if (entries_.contains(name_) || (name_ == "__metadata__" && had_metadata_)) twice(name_);
      had_metadata_ = had_metadata_ || name_ == "__metadata__";
      return true;
    }
    field_ = std::move(value);
    if (in_metadata_) return true;
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets")
      fail(Exit::data, "{}: tensor {}: unknown key {}", path_, name_, in_quotes(field_));
    if (!seen_.insert(field_).second) twice(field_);
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !std::exchange(in_metadata_, false)) {
      for (const char* field : {"dtype", "shape", "data_offsets"})
        if (!seen_.contains(field))
          fail(Exit::data, "{}: tensor {}: no \"{}\"", path_, name_, field);
      entries_.emplace(name_, std::move(entry_));
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || field_ == "dtype") unexpected("an array");
    ++depth_;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    --depth_;
    if (field_ == "shape") {
      entry_.shape = numbers_;
    } else {
      if (numbers_.size() != 2)
        fail(Exit::data, "{}: tensor {}: data_offsets has {} numbers", path_, name_,
             numbers_.size());
      entry_.begin = static_cast<std::uint64_t>(numbers_[0]);
      entry_.end = static_cast<std::uint64_t>(numbers_[1]);
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const json::exception& error) override {
    fail(Exit::data, "{}: offset {}: {:.160}", path_, 8 + position, error.what());
  }

 private:
  std::string where() const {
    return depth_ == 0
               ? "header"
               : fmt::format("tensor {:.200} {}", name_, in_metadata_ ? in_quotes(field_) : field_);
  }
  [[noreturn]] void unexpected(const char* what) const {
    fail(Exit::data, "{}: {}: {} where none belongs", path_, where(), what);
  }
  [[noreturn]] void twice(const std::string& key) const {
    fail(Exit::data, "{}: {}: key {} occurs twice", path_, where(), in_quotes(key));
  }

  const std::string& path_;
  Entries& entries_;
  std::map<std::string, std::string>& metadata_;
  int depth_ = 0;
  bool in_metadata_ = false, had_metadata_ = false;
  std::string name_, field_;
  SafetensorsFile::Entry entry_;
  std::set<std::string> seen_;
  std::vector<std::int64_t> numbers_;
};

/// Each tensor's bytes fit its shape, and together they cover the data section exactly once.
void check_entries(const std::string& path,
                   const std::map<std::string, SafetensorsFile::Entry>& entries,
                   std::uint64_t data_bytes) {
  using Item = std::pair<const std::string, SafetensorsFile::Entry>;
  std::vector<const Item*> order;
  for (const auto& item : entries) {
    const auto& [name, entry] = item;
    if (entry.begin > entry.end || entry.end > data_bytes)
      fail(Exit::data, "{}: tensor {}: bytes {}..{} are not inside the data section of {} bytes",
           path, name, entry.begin, entry.end, data_bytes);
    std::uint64_t bytes = stored_size(entry.dtype);
    for (std::int64_t extent : entry.shape)
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
        fail(Exit::data, "{}: tensor {}: its shape overflows 64 bits", path, name);
    if (bytes != entry.end - entry.begin)
      fail(Exit::data, "{}: tensor {}: shape and dtype need {} bytes, data_offsets give {}", path,
           name, bytes, entry.end - entry.begin);
    order.push_back(&item);
  }
  std::sort(order.begin(), order.end(), [](const Item* a, const Item* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::uint64_t at = 0;
  for (const Item* item : order) {
    if (item->second.begin != at)
      fail(Exit::data, "{}: tensor {}: begins at data offset {}, {} {}", path, item->first,
           item->second.begin,
           item->second.begin < at ? "overlapping the one before, which ends at"
                                   : "leaving a hole after offset",
           at);
    at = item->second.end;
  }
  if (at != data_bytes)
    fail(Exit::data, "{}: {} bytes after the last tensor's end at data offset {}", path,
         data_bytes - at, at);
}

template <class Stored, class To, class Convert>
void convert_all(std::string_view raw, To* to, Convert convert) {
  const std::size_t count = raw.size() / sizeof(Stored);
  for (std::size_t i = 0; i < count; ++i) {
    Stored value;  // the mapping gives no alignment
    std::memcpy(&value, raw.data() + i * sizeof(Stored), sizeof(Stored));
    to[i] = convert(value);
  }
}

const char* stored_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::i64:
      return "I64";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
    case DType::f64:
      return "F64";
  }
  return "?";
}

}  // namespace

// --- SafetensorsFile
// ------------------------------------------------------------------------------

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), map_(path) {
  const std::size_t size = map_.size();
  if (size < 10) fail(Exit::data, "{}: {} bytes: too short for safetensors", path_, size);
  ByteReader in({reinterpret_cast<const char*>(map_.data()), size}, path_);
  const auto length = in.number<std::uint64_t>();
  if (length > max_header_bytes)
    fail(Exit::data, "{}: offset 0: header length {} is over {}", path_, length, max_header_bytes);
  if (length > in.left())
    fail(Exit::data, "{}: offset 0: header length {} reaches past the end of the file of {} bytes",
         path_, length, size);
  const std::string_view header = in.take(length);
  if (length < 2 || header[0] != '{')
    fail(Exit::data, "{}: offset 8: the header does not begin with '{{'", path_);
  HeaderReader reader(path_, entries_, metadata_);
  json::sax_parse(header.begin(), header.end(), &reader);
  data_ = in.offset();
  check_entries(path_, entries_, in.left());
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) fail(Exit::data, "{}: tensor {} is missing", path_, name);
  return it->second;
}

Shape SafetensorsFile::shape_of(const std::string& name) const {
  const Entry& found = entry(name);
  if (found.shape.size() > Shape::max_rank)
    fail(Exit::data, "{}: tensor {}: rank {} is over {}", path_, name, found.shape.size(),
         Shape::max_rank);
  Shape shape;
  for (std::int64_t extent : found.shape) shape.append(extent);
  return shape;
}

std::string_view SafetensorsFile::raw(const std::string& name) const {
  const Entry& found = entry(name);
  return {reinterpret_cast<const char*>(map_.data()) + data_ + found.begin,
          found.end - found.begin};
}

void SafetensorsFile::let_go(const std::string& name) const {
  const Entry& e = entry(name);
  map_.let_go(data_ + e.begin, data_ + e.end);
}

Tensor SafetensorsFile::view(const std::string& name) const {
  const std::string& stored = entry(name).dtype;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (stored == stored_name(dtype)) {
      auto* bytes = reinterpret_cast<const std::byte*>(raw(name).data());
      return {const_cast<std::byte*>(bytes), dtype, host_device, shape_of(name)};
    }
  fail(Exit::data, "{}: tensor {}: dtype {} is not F32, F16 or BF16", path_, name, stored);
}

Buffer SafetensorsFile::read_f32(const std::string& name) const {
  Buffer buffer(DType::f32, shape_of(name));
  float* to = buffer.as<float>();
  const std::string& dtype = entry(name).dtype;
  if (dtype == "F32") {
    convert_all<float>(raw(name), to, [](float x) { return x; });
  } else if (dtype == "BF16") {
    convert_all<bf16>(raw(name), to, [](bf16 x) { return to_float(x); });
  } else if (dtype == "F16") {
    convert_all<std::uint16_t>(raw(name), to, half_to_float);
  } else {
    fail(Exit::data, "{}: tensor {}: is {}, wanted F32, F16 or BF16", path_, name, dtype);
  }
  return buffer;
}

Buffer SafetensorsFile::read_i64(const std::string& name) const {
  Buffer buffer(DType::i64, shape_of(name));
  std::int64_t* to = buffer.as<std::int64_t>();
  const std::string& dtype = entry(name).dtype;
  const auto widen = [](auto x) { return static_cast<std::int64_t>(x); };
  if (dtype == "I64") {
    convert_all<std::int64_t>(raw(name), to, widen);
  } else if (dtype == "I32") {
    convert_all<std::int32_t>(raw(name), to, widen);
  } else {
    fail(Exit::data, "{}: tensor {}: is {}, wanted I64 or I32", path_, name, dtype);
  }
  return buffer;
}

// --- SafetensorsFolder
// ----------------------------------------------------------------------------

namespace {

/// The shard files that an index names: plain file names, each once, in name order.
std::set<std::string> shards_of(const std::string& index_path, const json& weight_map) {
  std::set<std::string> shards;
  for (const auto& [tensor, file] : weight_map.items()) {
    if (!file.is_string())
      fail(Exit::data, "{}: weight_map: {}: not a file name", index_path, json(tensor).dump());
    const auto& name = file.get_ref<const std::string&>();
    const bool plain = !name.empty() && name.front() != '.' && name.size() < 256 &&
                       name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain)
      fail(Exit::data, "{}: weight_map: {} is not a plain file name", index_path, file.dump());
    shards.insert(name);
  }
  if (shards.empty()) fail(Exit::data, "{}: weight_map is empty", index_path);
  return shards;
}

[[noreturn]] void fail_without_weights(const std::string& dir, const std::string& stem) {
  if (!directory_exists(dir)) fail(Exit::data, "{}: no such folder", dir);
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(dir, error)) {
    const std::string extension = item.path().extension().string();
    for (const char* pickle : {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
      if (extension == pickle)
        fail(Exit::data,
             "{}: pickle files are not read (they can run code): convert it with safetensors' "
             "convert script or save_pretrained(safe_serialization=True)",
             item.path().string());
  }
  fail(Exit::data, "{}: neither {}.safetensors nor {}.safetensors.index.json is there", dir, stem,
       stem);
}

}  // namespace

SafetensorsFolder::SafetensorsFolder(const std::string& dir, const std::string& stem) : dir_(dir) {
  const std::string single = dir + "/" + stem + ".safetensors";
  const std::string index = single + ".index.json";
  if (file_exists(single)) {
    files_.emplace_back(single);
    return;
  }
  if (!file_exists(index)) fail_without_weights(dir, stem);
  const json document = read_json_file(index);
  if (!document.is_object() || !document.contains("weight_map") ||
      !document["weight_map"].is_object())
    fail(Exit::data, "{}: no weight_map", index);
  const json& weight_map = document["weight_map"];
  for (const std::string& shard : shards_of(index, weight_map))
    files_.emplace_back(dir + "/" + shard);

  std::map<std::string, const SafetensorsFile*> owner;
  for (const SafetensorsFile& file : files_)
    for (const auto& [name, entry] : file.entries())
      if (!owner.emplace(name, &file).second)
        fail(Exit::data, "{}: tensor {} is also in {}", file.path(), name, owner[name]->path());
  for (const auto& [name, file] : weight_map.items()) {
    const auto it = owner.find(name);
    const std::string named = dir + "/" + file.get_ref<const std::string&>();
    if (it == owner.end() || it->second->path() != named)
      fail(Exit::data, "{}: tensor {} is not in {}", index, name, named);
  }
}

bool SafetensorsFolder::contains(const std::string& name) const {
  return std::any_of(files_.begin(), files_.end(),
                     [&](const SafetensorsFile& file) { return file.contains(name); });
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> all;
  for (const SafetensorsFile& file : files_)
    for (const auto& [name, entry] : file.entries()) all.push_back(name);
  std::sort(all.begin(), all.end());
  return all;
}

const SafetensorsFile& SafetensorsFolder::file_of(const std::string& name) const {
  for (const SafetensorsFile& file : files_)
    if (file.contains(name)) return file;
  fail(Exit::data, "{}: tensor {} is missing", files_.size() == 1 ? files_[0].path() : dir_, name);
}

Buffer SafetensorsFolder::read_f32(const std::string& name) const {
  return file_of(name).read_f32(name);
}

const SafetensorsFile::Entry& SafetensorsFolder::entry(const std::string& name) const {
  return file_of(name).entries().at(name);
}

std::string SafetensorsFolder::sha256() const {
  std::vector<std::string> paths;
  for (const SafetensorsFile& file : files_) paths.push_back(file.path());
  return sha256_files(paths);
}

// --- SafetensorsWriter
// ----------------------------------------------------------------------------

void SafetensorsWriter::add(std::string name, Tensor tensor) {
  add(std::move(name), tensor, {tensor.shape.begin(), tensor.shape.end()});
}

void SafetensorsWriter::add(std::string name, Tensor tensor, std::vector<std::int64_t> shape) {
  STRATA_CHECK(tensor.device == host_device, "tensor {} is not in host memory", name);
  STRATA_CHECK(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()) ==
                   tensor.numel(),
               "tensor {}: {} elements under another size", name, tensor.numel());
  for (const Item& other : items_)
    STRATA_CHECK(other.name != name, "tensor {} is written twice", name);
  items_.push_back({std::move(name), tensor, std::move(shape)});
}

void SafetensorsWriter::add(std::string name, Buffer buffer) {
  owned_.push_back(std::move(buffer));
  add(std::move(name), owned_.back().tensor());
}

void SafetensorsWriter::write(const std::string& path) const {
  std::string header = "{";
  const auto begin_item = [&](const std::string& name) {
    if (header.size() > 1) header += ',';
    header += json(name).dump() + ':';
  };
  if (!metadata_.empty()) {
    begin_item("__metadata__");
    header += json(metadata_).dump();
  }
  std::uint64_t at = 0;
  for (const auto& [name, tensor, shape] : items_) {
    begin_item(name);
    header += fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                          stored_name(tensor.dtype), json(shape).dump(), at, at + tensor.bytes());
    at += tensor.bytes();
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');

  std::array<char, 8> length{};
  const std::uint64_t header_bytes = header.size();
  std::memcpy(length.data(), &header_bytes, 8);
  std::vector<std::string_view> pieces{{length.data(), 8}, header};
  for (const Item& item : items_)
    pieces.emplace_back(reinterpret_cast<const char*>(item.tensor.data), item.tensor.bytes());
  write_file_atomically(path, pieces);
}

}  // namespace strata
