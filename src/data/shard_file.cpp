#include "data/shard_file.hpp"

#include <hdf5.h>

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "data/hdf5_reader.hpp"

namespace strata {

namespace {

/// Owns one libhdf5 identifier. libhdf5's own error printing is switched off: the Error says it
/// all.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& path, const char* call)
      : id_(id), close_(close) {
    if (id < 0) fail(Exit::cannot_create, "{}: libhdf5: {} failed", path, call);
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

/// What libhdf5's calls are checked against while a file is made.
struct Context {
  const std::string& path;
  Handle own(hid_t id, herr_t (*close)(hid_t), const char* call) const {
    return {id, close, path, call};
  }
  void check(herr_t status, const char* call) const {
    if (status < 0) fail(Exit::cannot_create, "{}: libhdf5: {} failed", path, call);
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

Handle file_type(const Context& context, Hdf5Type type) {
  switch (type) {
    case Hdf5Type::float16:
      return half_type(context);
    case Hdf5Type::uint16:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_U16LE);
    case Hdf5Type::int8:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_I8LE);
    case Hdf5Type::int64:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_I64LE);
    case Hdf5Type::uint32:
      return OWN(context, H5Tclose, H5Tcopy, H5T_STD_U32LE);
    case Hdf5Type::float32:
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
  std::vector<std::uint64_t> extents;
  Hdf5Type type;
  std::uint64_t element_bytes;
  std::uint64_t* offset;
};

Hdf5Type stored_type(CacheDType dtype) {
  switch (dtype) {
    case CacheDType::float16:
      return Hdf5Type::float16;
    case CacheDType::bfloat16:
      return Hdf5Type::uint16;
    case CacheDType::int8:
      return Hdf5Type::int8;
    case CacheDType::float32:
      break;
  }
  return Hdf5Type::float32;
}

/// In file order: /values comes last, so that the metadata is a prefix of the file.
std::vector<Wanted> wanted_datasets(const ShardLayout& layout, ShardOffsets& offsets) {
  const auto rows = static_cast<std::uint64_t>(layout.rows),
             tokens = static_cast<std::uint64_t>(layout.tokens);
  std::vector<Wanted> all{{"sample", {rows}, Hdf5Type::int64, 8, &offsets.sample}};
  if (layout.kind == CacheKind::text)
    all.push_back({"offsets", {rows + 1}, Hdf5Type::int64, 8, &offsets.offsets});
  all.push_back({"crc32c", {rows}, Hdf5Type::uint32, 4, &offsets.crc32c});
  if (layout.has_scale()) all.push_back({"scale", {tokens}, Hdf5Type::float32, 4, &offsets.scale});
  const auto stored = [&](const char* name, std::vector<std::uint64_t> extents, CacheDType dtype,
                          std::uint64_t* offset) {
    all.push_back({name, std::move(extents), stored_type(dtype), size_of(dtype), offset});
  };
  if (layout.pooled_dim > 0)
    stored("pooled", {rows, static_cast<std::uint64_t>(layout.pooled_dim)}, layout.pooled_dtype(),
           &offsets.pooled);
  std::vector<std::uint64_t> extents{static_cast<std::uint64_t>(layout.value_rows())};
  extents.insert(extents.end(), layout.shape.begin(), layout.shape.end());
  stored("values", std::move(extents), layout.dtype, &offsets.values);
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

/// Where the dataset's bytes lie once all of it was found as wanted; an empty one lies nowhere,
/// which counts as the end of the file.
std::uint64_t offset_of(const std::string& path, const Hdf5Dataset& dataset, const Wanted& wanted,
                        std::uint64_t file_bytes) {
  const auto refuse = [&](const char* what) {
    fail(Exit::data, "{}: dataset /{}: {}", path, wanted.name, what);
  };
  if (dataset.type != wanted.type) refuse("is of another type");
  if (dataset.extents.size() != wanted.extents.size()) refuse("is of another rank");
  if (dataset.extents != wanted.extents) refuse("is of another shape");
  if (std::ranges::count(wanted.extents, std::uint64_t{0}) > 0) return file_bytes;
  if (!dataset.offset) refuse("has no place in the file");
  std::uint64_t bytes = wanted.element_bytes;
  for (const std::uint64_t extent : wanted.extents)
    if (__builtin_mul_overflow(bytes, extent, &bytes)) bytes = file_bytes + 1;
  if (*dataset.offset > file_bytes || bytes > file_bytes - *dataset.offset)
    refuse("reaches past the end of the file");
  return *dataset.offset;
}

std::int64_t pooled_dim_of(const std::string& path, const Hdf5Dataset& dataset) {
  if (dataset.extents.size() != 2)
    fail(Exit::data, "{}: dataset /pooled: is of another rank", path);
  const std::uint64_t width = dataset.extents[1];
  if (width < 1 || width > (1 << 24))
    fail(Exit::data, "{}: dataset /pooled: width {}", path, width);
  return static_cast<std::int64_t>(width);
}

/// Empty where there is no such text.
std::string text_of(const std::map<std::string, std::string>& texts, const char* name) {
  const auto found = texts.find(name);
  return found == texts.end() ? std::string() : found->second;
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
  const Context context{path};
  const Handle access = creation_access(context);
  const Handle file_creation = OWN(context, H5Pclose, H5Pcreate, H5P_FILE_CREATE);
  CHECKED(context, H5Pset_obj_track_times, file_creation, 0);
  ShardOffsets nowhere_yet;
  {
    Handle file =
        OWN(context, H5Fclose, H5Fcreate, path.c_str(), H5F_ACC_TRUNC, file_creation, access);
    // Strings share one heap, which this first one allocates ahead of /values.
    write_text_attribute(context, file, "provenance", notes.provenance);
    write_text_attribute(context, file, "head_sha256", notes.head_sha256);
    const Handle creation = dataset_creation(context);
    for (const Wanted& each : wanted_datasets(layout, nowhere_yet)) {
      const std::vector<hsize_t> extents(each.extents.begin(), each.extents.end());
      const Handle space = OWN(context, H5Sclose, H5Screate_simple,
                               static_cast<int>(extents.size()), extents.data(), nullptr);
      const Handle type = file_type(context, each.type);
      const Handle dataset = OWN(context, H5Dclose, H5Dcreate2, file, each.name, type, space,
                                 H5P_DEFAULT, creation, H5P_DEFAULT);
      if (each.offset == &nowhere_yet.values)
        write_text_attribute(context, dataset, "dtype", std::string(name_of(layout.dtype)));
    }
    if (file.close() < 0) fail(Exit::io, "{}: libhdf5: H5Fclose failed", path);
  }
  ShardLayout found = layout;
  ShardNotes found_notes;
  return open_shard_file(FileHandle::open_for_reading(path), found, found_notes);
}

ShardOffsets open_shard_file(const FileHandle& shard, ShardLayout& layout, ShardNotes& notes) {
  const std::string& path = shard.path();
  const std::uint64_t bytes = shard.size();
  const Hdf5File file = read_hdf5(shard);
  const auto pooled = file.datasets.find("pooled");
  layout.pooled_dim = pooled == file.datasets.end() ? 0 : pooled_dim_of(path, pooled->second);
  ShardOffsets offsets;
  const auto wanted = wanted_datasets(layout, offsets);
  for (const Wanted& each : wanted) {
    const auto found = file.datasets.find(each.name);
    if (found == file.datasets.end())
      fail(Exit::data, "{}: dataset /{} is missing", path, each.name);
    *each.offset = offset_of(path, found->second, each, bytes);
  }
  if (file.datasets.size() != wanted.size())
    fail(Exit::data, "{}: holds datasets that a cache has not", path);
  const std::string dtype = text_of(file.datasets.at("values").texts, "dtype");
  if (dtype != name_of(layout.dtype))
    fail(Exit::data, "{}: dtype of /values is '{}', the manifest says {}", path, dtype,
         name_of(layout.dtype));
  if (offsets.values + layout.values_bytes() != bytes)
    fail(Exit::data, "{}: /values does not end with the file", path);
  notes.provenance = text_of(file.texts, "provenance");
  notes.head_sha256 = text_of(file.texts, "head_sha256");
  return offsets;
}

}  // namespace strata
