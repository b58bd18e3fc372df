#include "data/shard_file.hpp"

#include <hdf5.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.hpp"
#include "data/shard_view.hpp"

namespace strata {

namespace {

/// Owns one libhdf5 identifier. libhdf5's own error printing is switched off: the Error says it
/// all.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& path, const char* call, Exit code)
      : id_(id), close_(close) {
    if (id < 0) fail(code, "{}: libhdf5: {} failed", path, call);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }
  /// Closing a file writes it: for files it is checked.
  herr_t close() { return close_(std::exchange(id_, -1)); }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void prepare_library() {
  static const bool done = [] {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5PLset_loading_state(0);
    return true;
  }();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // the error stack belongs to the thread
  (void)done;
}

/// What HDF5 calls are checked against while one file is made or read.
struct Context {
  const std::string& path;
  Exit code;
  Handle own(hid_t id, herr_t (*close)(hid_t), const char* call) const {
    return {id, close, path, call, code};
  }
  void check(herr_t status, const char* call) const {
    if (status < 0) fail(code, "{}: libhdf5: {} failed", path, call);
  }
};
#define OWN(context, close, function, ...) (context).own(function(__VA_ARGS__), close, #function)
#define CHECKED(context, function, ...) (context).check(function(__VA_ARGS__), #function)

/// IEEE half, little-endian.
Handle half_type(const Context& context) {
  Handle type = OWN(context, H5Tclose, H5Tcopy, H5T_IEEE_F32LE);
  CHECKED(context, H5Tset_fields, type, 15, 10, 5, 0, 10);
  CHECKED(context, H5Tset_size, type, 2);
  CHECKED(context, H5Tset_ebias, type, 15);
  return type;
}

Handle stored_type(const Context& context, CacheDType dtype) {
  switch (dtype) {
    case CacheDType::float16:
      return half_type(context);
    case CacheDType::bfloat16:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_U16LE);
    case CacheDType::int8:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_I8LE);
    case CacheDType::float32:
      break;
  }
  return OWN(context, H5Tclose, H5Tcopy, H5T_IEEE_F32LE);
}

Handle text_type(const Context& context) {
  Handle type = OWN(context, H5Tclose, H5Tcopy, H5T_C_S1);
  CHECKED(context, H5Tset_size, type, H5T_VARIABLE);
  CHECKED(context, H5Tset_cset, type, H5T_CSET_UTF8);
  return type;
}

/// One dataset that a layout asks for.
struct Wanted {
  const char* name;
  std::vector<hsize_t> extents;
  Handle type;
  std::uint64_t* offset;
};

/// In file order: /values comes last, so that the metadata is a prefix of the file.
std::vector<Wanted> wanted_datasets(const Context& context, const ShardLayout& layout,
                                    ShardOffsets& offsets) {
  const auto rows = static_cast<hsize_t>(layout.rows), tokens = static_cast<hsize_t>(layout.tokens);
  std::vector<Wanted> all;
  const auto fixed = [&](const char* name, std::vector<hsize_t> extents, hid_t type,
                         std::uint64_t* offset) {
    all.push_back({name, std::move(extents), OWN(context, H5Tclose, H5Tcopy, type), offset});
  };
  fixed("sample", {rows}, H5T_STD_I64LE, &offsets.sample);
  if (layout.kind == CacheKind::text) fixed("offsets", {rows + 1}, H5T_STD_I64LE, &offsets.offsets);
  fixed("crc32c", {rows}, H5T_STD_U32LE, &offsets.crc32c);
  if (layout.has_scale()) fixed("scale", {tokens}, H5T_IEEE_F32LE, &offsets.scale);
  if (layout.pooled_dim > 0)
    all.push_back({"pooled",
                   {rows, static_cast<hsize_t>(layout.pooled_dim)},
                   stored_type(context, layout.pooled_dtype()),
                   &offsets.pooled});
  std::vector<hsize_t> extents{static_cast<hsize_t>(layout.value_rows())};
  extents.insert(extents.end(), layout.shape.begin(), layout.shape.end());
  all.push_back({"values", extents, stored_type(context, layout.dtype), &offsets.values});
  return all;
}

void write_text_attribute(const Context& context, hid_t object, const char* name,
                          const std::string& text) {
  const Handle type = text_type(context);
  const Handle space = OWN(context, H5Sclose, H5Screate, H5S_SCALAR);
  const Handle attribute =
      OWN(context, H5Aclose, H5Acreate2, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  const char* value = text.c_str();
  CHECKED(context, H5Awrite, attribute, type, &value);
}

std::string read_text_attribute(const Context& context, hid_t object, const char* name) {
  const Handle attribute = OWN(context, H5Aclose, H5Aopen, object, name, H5P_DEFAULT);
  const Handle type = OWN(context, H5Tclose, H5Aget_type, attribute);
  const Handle space = OWN(context, H5Sclose, H5Aget_space, attribute);
  if (H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_npoints(space) != 1)
    fail(Exit::data, "{}: attribute {} is not one string", context.path, name);
  if (H5Tis_variable_str(type) > 0) {
    char* value = nullptr;
    const Handle memory = text_type(context);
    CHECKED(context, H5Aread, attribute, memory, &value);
    std::string text = value ? value : "";
    H5free_memory(value);
    return text;
  }
  const std::size_t size = H5Tget_size(type);
  if (size > 4096) fail(Exit::data, "{}: attribute {} is too long", context.path, name);
  std::string text(size, '\0');
  CHECKED(context, H5Aread, attribute, type, text.data());
  return text.substr(0, text.find('\0'));
}

Handle creation_access(const Context& context) {
  Handle access = OWN(context, H5Pclose, H5Pcreate, H5P_FILE_ACCESS);
  CHECKED(context, H5Pset_libver_bounds, access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  // All metadata fits into the first block, so none is allocated behind /values.
  CHECKED(context, H5Pset_meta_block_size, access, 16384);
  CHECKED(context, H5Pset_small_data_block_size, access, 0);
  CHECKED(context, H5Pset_file_locking, access, 0, 1);
  return access;
}

Handle dataset_creation(const Context& context) {
  Handle creation = OWN(context, H5Pclose, H5Pcreate, H5P_DATASET_CREATE);
  CHECKED(context, H5Pset_layout, creation, H5D_CONTIGUOUS);
  CHECKED(context, H5Pset_alloc_time, creation, H5D_ALLOC_TIME_EARLY);
  CHECKED(context, H5Pset_fill_time, creation, H5D_FILL_TIME_NEVER);
  CHECKED(context, H5Pset_obj_track_times, creation, 0);
  return creation;
}

/// Where the dataset's bytes lie; an empty one lies nowhere, which counts as the end of the file.
std::uint64_t offset_of(const Context& context, hid_t dataset, const Wanted& wanted,
                        std::uint64_t file_bytes) {
  if (std::count(wanted.extents.begin(), wanted.extents.end(), 0) > 0) return file_bytes;
  const haddr_t address = H5Dget_offset(dataset);
  if (address == HADDR_UNDEF)
    fail(context.code, "{}: dataset /{} has no place in the file", context.path, wanted.name);
  return address;
}

/// What a dataset is made of, before anything else is asked: of a virtual one, its extents are
/// found out by opening other files.
Handle open_dataset(const Context& context, hid_t file, const char* name) {
  Handle dataset = OWN(context, H5Dclose, H5Dopen2, file, name, H5P_DEFAULT);
  const auto refuse = [&](const char* what) {
    fail(Exit::data, "{}: dataset /{}: {}", context.path, name, what);
  };
  const Handle creation = OWN(context, H5Pclose, H5Dget_create_plist, dataset);
  if (H5Pget_layout(creation) != H5D_CONTIGUOUS) refuse("is not contiguous");
  if (H5Pget_external_count(creation) != 0) refuse("lies in another file");
  if (H5Pget_nfilters(creation) != 0) refuse("has filters");
  return dataset;
}

void check_dataset(const Context& context, hid_t dataset, const Wanted& wanted) {
  const auto refuse = [&](const char* what) {
    fail(Exit::data, "{}: dataset /{}: {}", context.path, wanted.name, what);
  };
  const Handle type = OWN(context, H5Tclose, H5Dget_type, dataset);
  if (H5Tequal(type, wanted.type) <= 0) refuse("is of another type");
  const Handle space = OWN(context, H5Sclose, H5Dget_space, dataset);
  if (H5Sget_simple_extent_ndims(space) != static_cast<int>(wanted.extents.size()))
    refuse("is of another rank");
  std::vector<hsize_t> extents(wanted.extents.size());
  H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  if (extents != wanted.extents) refuse("is of another shape");
}

/// offset_of for a dataset of a file that is there: all its bytes are, too.
std::uint64_t checked_offset_of(const Context& context, hid_t dataset, const Wanted& wanted,
                                std::uint64_t file_bytes) {
  const std::uint64_t offset = offset_of(context, dataset, wanted, file_bytes);
  std::uint64_t bytes = H5Tget_size(wanted.type);
  for (const hsize_t extent : wanted.extents)
    if (__builtin_mul_overflow(bytes, extent, &bytes)) bytes = file_bytes + 1;
  if (offset > file_bytes || bytes > file_bytes - offset)
    fail(Exit::data, "{}: dataset /{}: reaches past the end of the file", context.path,
         wanted.name);
  return offset;
}

herr_t collect_link(hid_t, const char* name, const H5L_info_t* info, void* found) {
  if (info->type != H5L_TYPE_HARD) return -1;
  auto& names = *static_cast<std::set<std::string>*>(found);
  names.insert(name);
  return names.size() > 16 ? -1 : 0;
}

std::set<std::string> link_names(const Context& context, hid_t file) {
  std::set<std::string> names;
  if (H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, collect_link, &names) < 0)
    fail(Exit::data, "{}: holds links that a cache has not", context.path);
  return names;
}

/// Addresses and lengths of 8 bytes, as shard_view takes them.
void check_sizes(const Context& context, hid_t file) {
  const Handle creation = OWN(context, H5Pclose, H5Fget_create_plist, file);
  std::size_t address = 0, length = 0;
  CHECKED(context, H5Pget_sizes, creation, &address, &length);
  if (address != 8 || length != 8)
    fail(Exit::data, "{}: addresses of {} and lengths of {} bytes", context.path, address, length);
}

std::int64_t read_pooled_dim(const Context& context, hid_t file) {
  const Handle dataset = open_dataset(context, file, "pooled");
  const Handle space = OWN(context, H5Sclose, H5Dget_space, dataset);
  hsize_t extents[2] = {0, 0};
  if (H5Sget_simple_extent_ndims(space) != 2)
    fail(Exit::data, "{}: dataset /pooled: is of another rank", context.path);
  H5Sget_simple_extent_dims(space, extents, nullptr);
  if (extents[1] < 1 || extents[1] > (1 << 24))
    fail(Exit::data, "{}: dataset /pooled: width {}", context.path, extents[1]);
  return static_cast<std::int64_t>(extents[1]);
}

}  // namespace

std::uint64_t ShardLayout::row_bytes() const {
  std::uint64_t bytes = size_of(dtype);
  for (std::int64_t extent : shape) bytes *= static_cast<std::uint64_t>(extent);
  return bytes;
}

std::uint64_t ShardLayout::values_bytes() const {
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(row_bytes(), static_cast<std::uint64_t>(value_rows()), &bytes))
    fail(Exit::data, "/values of {} rows: its size overflows", value_rows());
  return bytes;
}

std::uint64_t ShardLayout::pooled_row_bytes() const {
  return static_cast<std::uint64_t>(pooled_dim) * size_of(pooled_dtype());
}

ShardOffsets create_shard_file(const std::string& path, const ShardLayout& layout,
                               const ShardNotes& notes) {
  prepare_library();
  const Context context{path, Exit::cannot_create};
  const Handle access = creation_access(context);
  const Handle file_creation = OWN(context, H5Pclose, H5Pcreate, H5P_FILE_CREATE);
  CHECKED(context, H5Pset_obj_track_times, file_creation, 0);
  ShardOffsets offsets;
  const auto wanted = wanted_datasets(context, layout, offsets);
  std::vector<std::uint64_t> places;
  {
    Handle file =
        OWN(context, H5Fclose, H5Fcreate, path.c_str(), H5F_ACC_TRUNC, file_creation, access);
    // Strings share one heap, which this first one allocates ahead of /values.
    write_text_attribute(context, file, "provenance", notes.provenance);
    write_text_attribute(context, file, "head_sha256", notes.head_sha256);
    const Handle creation = dataset_creation(context);
    for (const Wanted& each : wanted) {
      const Handle space = OWN(context, H5Sclose, H5Screate_simple,
                               static_cast<int>(each.extents.size()), each.extents.data(), nullptr);
      const Handle dataset = OWN(context, H5Dclose, H5Dcreate2, file, each.name, each.type, space,
                                 H5P_DEFAULT, creation, H5P_DEFAULT);
      if (each.offset == &offsets.values)
        write_text_attribute(context, dataset, "dtype", std::string(name_of(layout.dtype)));
      places.push_back(offset_of(context, dataset, each, 0));
    }
    if (file.close() < 0) fail(Exit::io, "{}: libhdf5: H5Fclose failed", path);
  }
  const std::uint64_t bytes = FileHandle::open_for_reading(path).size();
  for (std::size_t i = 0; i < wanted.size(); ++i) *wanted[i].offset = places[i] ? places[i] : bytes;
  STRATA_CHECK(offsets.values + layout.values_bytes() == bytes, "{}: /values is not last", path);
  return offsets;
}

ShardOffsets open_shard_file(const FileHandle& shard, ShardLayout& layout, ShardNotes& notes) {
  prepare_library();
  const std::string& path = shard.path();
  const Context context{path, Exit::data};
  const std::uint64_t bytes = shard.size();
  const Handle access = OWN(context, H5Pclose, shard_view, shard);
  const Handle file = OWN(context, H5Fclose, H5Fopen, path.c_str(), H5F_ACC_RDONLY, access);
  check_sizes(context, file);
  const std::set<std::string> names = link_names(context, file);
  layout.pooled_dim = names.contains("pooled") ? read_pooled_dim(context, file) : 0;
  ShardOffsets offsets;
  const auto wanted = wanted_datasets(context, layout, offsets);
  for (const Wanted& each : wanted) {
    if (!names.contains(each.name)) fail(Exit::data, "{}: dataset /{} is missing", path, each.name);
    const Handle dataset = open_dataset(context, file, each.name);
    check_dataset(context, dataset, each);
    *each.offset = checked_offset_of(context, dataset, each, bytes);
    if (each.offset != &offsets.values) continue;
    const std::string dtype = read_text_attribute(context, dataset, "dtype");
    if (dtype != name_of(layout.dtype))
      fail(Exit::data, "{}: /values is {}, the manifest says {}", path, dtype,
           name_of(layout.dtype));
  }
  if (names.size() != wanted.size())
    fail(Exit::data, "{}: holds datasets that a cache has not", path);
  if (offsets.values + layout.values_bytes() != bytes)
    fail(Exit::data, "{}: /values does not end with the file", path);
  for (const auto& [name, to] :
       {std::pair("provenance", &notes.provenance), {"head_sha256", &notes.head_sha256}})
    if (H5Aexists(file, name) > 0) *to = read_text_attribute(context, file, name);
  return offsets;
}

}  // namespace strata
