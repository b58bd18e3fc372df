#include "data/hdf5_reader.hpp"

#include <algorithm>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>

#include "core/byte_reader.hpp"
#include "core/error.hpp"

namespace strata {

namespace {

using namespace std::string_view_literals;

constexpr std::uint64_t undefined = ~std::uint64_t{0};  // II.: an address that leads nowhere
// More than any cache has, and little enough to read again for each who asks.
constexpr std::uint64_t most_block_bytes = 1 << 16;
constexpr std::size_t most_blocks = 16, most_links = 16;
constexpr std::ptrdiff_t most_attributes = 16;

/// IV.A.2: types of header messages.
enum class Kind : std::uint8_t {
  nil = 0x00,
  dataspace = 0x01,
  link_info = 0x02,
  datatype = 0x03,
  old_fill_value = 0x04,
  fill_value = 0x05,
  link = 0x06,
  external_files = 0x07,
  layout = 0x08,
  group_info = 0x0A,
  filters = 0x0B,
  attribute = 0x0C,
  comment = 0x0D,
  continuation = 0x10,
  modification_time = 0x12,
  attribute_info = 0x15,
  reference_count = 0x16,
};

struct Message {
  Kind kind;
  std::string bytes;
};

struct Object {
  std::string where;  // for messages: the file and the header's place
  std::vector<Message> messages;

  const std::string* find(Kind kind) const {
    const auto found = std::ranges::find(messages, kind, &Message::kind);
    return found == messages.end() ? nullptr : &found->bytes;
  }
};

/// IV.A.2.d, behind class and version, which share the first byte.
constexpr std::pair<std::string_view, Hdf5Type> number_types[] = {
    {"\x00\x08\x00\x00\x08\x00\x00\x00\x00\x00\x40\x00"sv, Hdf5Type::int64},
    {"\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x20\x00"sv, Hdf5Type::uint32},
    {"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x10\x00"sv, Hdf5Type::uint16},
    {"\x00\x08\x00\x00\x01\x00\x00\x00\x00\x00\x08\x00"sv, Hdf5Type::int8},
    {"\x01\x20\x0F\x00\x02\x00\x00\x00\x00\x00\x10\x00\x0A\x05\x00\x0A\x0F\x00\x00\x00"sv,
     Hdf5Type::float16},
    {"\x01\x20\x1F\x00\x04\x00\x00\x00\x00\x00\x20\x00\x17\x08\x00\x17\x7F\x00\x00\x00"sv,
     Hdf5Type::float32},
};

constexpr int class_of(char first) {
  return first & 0x0F;
}

std::optional<Hdf5Type> number_type(std::string message) {
  if (message.empty()) return {};
  message[0] = static_cast<char>(class_of(message[0]));
  for (const auto& [bytes, type] : number_types)
    if (message.starts_with(bytes)) return type;
  return {};
}

/// IV.A.2.b. A scalar has no extents.
std::vector<std::uint64_t> extents_of(ByteReader in) {
  if (in.number<std::uint8_t>() != 2) in.refuse("a dataspace of another version");
  const auto rank = in.number<std::uint8_t>();
  in.take(1);  // whether the largest extents follow: of what lies contiguously they are the same
  if (in.number<std::uint8_t>() > 1) in.refuse("a dataspace without elements");
  std::vector<std::uint64_t> extents(rank);
  for (std::uint64_t& extent : extents) extent = in.number<std::uint64_t>();
  return extents;
}

class Reader {
 public:
  explicit Reader(const FileHandle& file) : file_(file), bytes_(file.size()) {}

  Hdf5File read() const {
    const Object root = object_at(root_address());
    Hdf5File found;
    refuse_dense(root, Kind::link_info, "holds more links than a cache has");
    allow(root, {Kind::link, Kind::link_info, Kind::group_info});
    for (const Message& message : root.messages) {
      if (message.kind != Kind::link) continue;
      const auto [name, address] = link_of({message.bytes, root.where});
      if (found.datasets.size() == most_links)
        fail(Exit::data, "{}: holds more links than a cache has", root.where);
      if (!found.datasets.emplace(name, dataset_of(name, object_at(address))).second)
        fail(Exit::data, "{}: holds the link {} twice", root.where, name);
    }
    found.texts = texts_of(root);
    return found;
  }

 private:
  std::string where(std::uint64_t at) const {
    return fmt::format("{}: HDF5 metadata at byte {}", file_.path(), at);
  }

  /// All metadata is read here.
  std::string block(std::uint64_t at, std::uint64_t count) const {
    if (count > most_block_bytes || at > bytes_ || count > bytes_ - at)
      fail(Exit::data, "{}: {} bytes are more than there can be", where(at), count);
    std::string bytes(count, '\0');
    file_.read_at(at, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }

  /// II.A: the superblock.
  std::uint64_t root_address() const {
    const std::string bytes = block(0, 48);
    ByteReader in(bytes, where(0));
    if (in.take(8) != "\x89HDF\r\n\x1A\n"sv) fail(Exit::data, "{}: is not HDF5", file_.path());
    const auto version = in.number<std::uint8_t>();
    if (version != 2 && version != 3)
      in.refuse(fmt::format("a superblock of version {}: is not of libver v110", version));
    const auto address = in.number<std::uint8_t>(), length = in.number<std::uint8_t>();
    if (address != 8 || length != 8)
      in.refuse(fmt::format("addresses of {} and lengths of {} bytes", address, length));
    if (in.number<std::uint8_t>() != 0) in.refuse("a file that was not closed");
    if (in.number<std::uint64_t>() != 0) in.refuse("a file that begins elsewhere");
    if (in.number<std::uint64_t>() != undefined) in.refuse("a superblock with an extension");
    if (in.number<std::uint64_t>() > bytes_) in.refuse("a file that was longer");
    return in.number<std::uint64_t>();
  }

  /// IV.A.1.b and c: an object's header, which may lie in several blocks.
  Object object_at(std::uint64_t at) const {
    Object object{where(at), {}};
    const std::string start = block(at, 6);
    if (!start.starts_with("OHDR\2"))
      fail(Exit::data, "{}: is no object header of version 2", object.where);
    const auto flags = static_cast<unsigned char>(start[5]);
    const std::uint64_t head = 6 + (flags & 0x20 ? 16 : 0) + (flags & 0x10 ? 4 : 0);
    const std::uint64_t width = std::uint64_t{1} << (flags & 3);
    const std::string length = block(at + head, width);
    std::uint64_t first = 0;
    std::copy(length.begin(), length.end(), reinterpret_cast<char*>(&first));
    std::vector<std::string> blocks{block(at + head + width, first)};
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const std::string bytes = blocks[i];
      ByteReader in(bytes, object.where);
      const std::size_t prefix = flags & 4 ? 6 : 4;
      while (in.left() >= prefix) {
        Message message = message_of(in, prefix);
        if (message.kind == Kind::continuation) {
          if (blocks.size() == most_blocks) in.refuse("more blocks than a header of a cache has");
          blocks.push_back(continuation_of({message.bytes, object.where}));
        } else if (message.kind != Kind::nil) {
          object.messages.push_back(std::move(message));
        }
      }
    }
    return object;
  }

  static Message message_of(ByteReader& in, std::size_t prefix) {
    const auto kind = in.number<Kind>();
    const auto size = in.number<std::uint16_t>();
    const auto flags = in.number<std::uint8_t>();
    in.take(prefix - 4);  // the order of creation
    if ((flags & 2) != 0) in.refuse("a message that lies elsewhere");
    return {kind, std::string(in.take(size))};
  }

  std::string continuation_of(ByteReader in) const {
    const auto at = in.number<std::uint64_t>(), count = in.number<std::uint64_t>();
    const std::string bytes = block(at, count);
    if (bytes.size() < 8 || !bytes.starts_with("OCHK")) in.refuse("a continuation that is none");
    return bytes.substr(4, bytes.size() - 8);  // without the checksum
  }

  /// Refuses messages that are neither these nor of those that any object may have.
  static void allow(const Object& object, std::initializer_list<Kind> own) {
    constexpr Kind of_any[] = {Kind::attribute, Kind::attribute_info, Kind::comment,
                               Kind::modification_time, Kind::reference_count};
    for (const Message& message : object.messages)
      if (std::ranges::count(own, message.kind) + std::ranges::count(of_any, message.kind) == 0)
        fail(Exit::data, "{}: holds a message of type {}, which a cache has not", object.where,
             static_cast<int>(message.kind));
  }

  /// IV.A.2.c and v: links and attributes that are many lie in a heap of their own, whose address
  /// follows the version, the flags and, where the order of creation is kept, the largest one.
  static void refuse_dense(const Object& object, Kind kind, const char* what) {
    const std::string* bytes = object.find(kind);
    if (bytes == nullptr) return;
    ByteReader in(*bytes, object.where);
    in.take(1);
    if ((in.number<std::uint8_t>() & 1) != 0) in.take(kind == Kind::link_info ? 8 : 2);
    if (in.number<std::uint64_t>() != undefined) fail(Exit::data, "{}: {}", object.where, what);
  }

  /// IV.A.2.g: a link's name and where it leads.
  std::pair<std::string, std::uint64_t> link_of(ByteReader in) const {
    if (in.number<std::uint8_t>() != 1) in.refuse("a link of another version");
    const auto flags = in.number<std::uint8_t>();
    const bool is_hard = (flags & 8) == 0 || in.number<std::uint8_t>() == 0;
    if (!is_hard) fail(Exit::data, "{}: holds links that a cache has not", file_.path());
    in.take((flags & 4 ? 8 : 0) + (flags & 0x10 ? 1 : 0));  // order of creation, character set
    std::uint64_t length = 0;
    switch (flags & 3) {
      case 0:
        length = in.number<std::uint8_t>();
        break;
      case 1:
        length = in.number<std::uint16_t>();
        break;
      default:
        in.refuse("a link's name that is too long");
    }
    std::string name(in.take(length));
    return {std::move(name), in.number<std::uint64_t>()};
  }

  Hdf5Dataset dataset_of(const std::string& name, const Object& object) const {
    const auto refuse = [&](const char* what) {
      fail(Exit::data, "{}: dataset /{}: {}", file_.path(), name, what);
    };
    const std::string *layout = object.find(Kind::layout), *type = object.find(Kind::datatype),
                      *space = object.find(Kind::dataspace);
    if (layout == nullptr || type == nullptr || space == nullptr) refuse("is no dataset");
    // IV.A.2.i.
    ByteReader in(*layout, object.where);
    const auto version = in.number<std::uint8_t>();
    if (version != 3 && version != 4) refuse("has a layout of another version");
    if (in.number<std::uint8_t>() != 1) refuse("is not contiguous");
    const auto offset = in.number<std::uint64_t>();
    if (object.find(Kind::external_files) != nullptr) refuse("lies in another file");
    if (object.find(Kind::filters) != nullptr) refuse("has filters");
    allow(object,
          {Kind::dataspace, Kind::datatype, Kind::layout, Kind::old_fill_value, Kind::fill_value});
    return {number_type(*type), extents_of({*space, object.where}),
            offset == undefined ? std::nullopt : std::optional(offset), texts_of(object)};
  }

  std::map<std::string, std::string> texts_of(const Object& object) const {
    constexpr const char* too_many = "holds more attributes than a cache has";
    refuse_dense(object, Kind::attribute_info, too_many);
    if (std::ranges::count(object.messages, Kind::attribute, &Message::kind) > most_attributes)
      fail(Exit::data, "{}: {}", object.where, too_many);
    std::map<std::string, std::string> texts;
    for (const Message& message : object.messages)
      if (message.kind == Kind::attribute) add_text(message.bytes, object.where, texts);
    return texts;
  }

  /// IV.A.2.m: an attribute, if it is one string.
  void add_text(const std::string& bytes, const std::string& where,
                std::map<std::string, std::string>& texts) const {
    ByteReader in(bytes, where);
    if (in.number<std::uint8_t>() != 3) in.refuse("an attribute of another version");
    if (in.number<std::uint8_t>() != 0) in.refuse("an attribute whose type lies elsewhere");
    const auto name_bytes = in.number<std::uint16_t>(), type_bytes = in.number<std::uint16_t>(),
               space_bytes = in.number<std::uint16_t>();
    in.take(1);  // the name's character set
    const std::string_view name = in.take(name_bytes), type = in.take(type_bytes);
    for (const std::uint64_t extent : extents_of({in.take(space_bytes), where}))
      if (extent != 1) return;
    constexpr int fixed_string = 3, of_variable_length = 9, is_string = 1;
    ByteReader of_type(type, where);
    const auto first = of_type.number<char>(), second = of_type.number<char>();
    of_type.take(2);
    const auto size = of_type.number<std::uint32_t>();
    std::string text;
    if (class_of(first) == fixed_string)
      text = in.take(size);
    else if (class_of(first) == of_variable_length && (second & 0x0F) == is_string)
      text = heap_text(in);
    else
      return;
    texts.emplace(name.substr(0, name.find('\0')), text.substr(0, text.find('\0')));
  }

  /// III.E: a string in the heap for what has no fixed length.
  std::string heap_text(ByteReader& in) const {
    const auto length = in.number<std::uint32_t>();
    const auto at = in.number<std::uint64_t>();
    const auto wanted = in.number<std::uint32_t>();
    if (length == 0) return {};
    constexpr std::size_t head = 16;  // of the collection, and of each object in it
    const std::string start = block(at, head);
    if (!start.starts_with("GCOL\1")) in.refuse("a heap of strings that is none");
    ByteReader of_size(std::string_view(start).substr(8), where(at));
    const std::string collection = block(at, of_size.number<std::uint64_t>());
    ByteReader heap(collection, where(at));
    heap.take(head);
    while (heap.left() >= head) {
      const auto index = heap.number<std::uint16_t>();
      heap.take(6);  // the count of references
      const auto size = heap.number<std::uint64_t>();
      if (index == 0) break;  // the free space behind all others
      if (size > heap.left()) heap.refuse("an object that reaches past its heap");
      if (index == wanted) return std::string(heap.take(size).substr(0, length));
      heap.take((size + 7) / 8 * 8);
    }
    heap.refuse(fmt::format("string {} is not in its heap", wanted));
  }

  const FileHandle& file_;
  std::uint64_t bytes_;
};

}  // namespace

std::string_view name_of(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::int64:
      return "int64";
    case Hdf5Type::uint32:
      return "uint32";
    case Hdf5Type::uint16:
      return "uint16";
    case Hdf5Type::int8:
      return "int8";
    case Hdf5Type::float16:
      return "float16";
    case Hdf5Type::float32:
      break;
  }
  return "float32";
}

Hdf5File read_hdf5(const FileHandle& file) {
  return Reader(file).read();
}

}  // namespace strata
