#include "data/shard_view.hpp"

#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>  // since then a file driver's struct is there
#endif

#include <algorithm>
#include <cstring>
#include <span>

#include "core/error.hpp"

namespace strata {

namespace {

/// What the property list carries.
struct Source {
  const FileHandle* file;
};

struct View {
  H5FD_t base;  // libhdf5's part, which comes first
  const FileHandle* file;
  std::uint64_t bytes;
  haddr_t end_of_allocation;
};

View& view_of(H5FD_t* file) {
  return *reinterpret_cast<View*>(file);
}
const View& view_of(const H5FD_t* file) {
  return *reinterpret_cast<const View*>(file);
}

template <class T>
T load_as(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// A global heap collection (HDF5 file format 3.0, III.E) as small as all of ours. libhdf5 1.10
/// steps through one by the sizes that its objects give, without a look at whether that leads on
/// and stays inside, and copies an object into a buffer of this size, whatever the object's own.
bool heap_is_sound(std::span<const std::byte> bytes) {
  constexpr std::size_t collection = 4096, header = 16;
  if (bytes.size() != collection || std::memcmp(bytes.data(), "GCOL", 4) != 0 ||
      load_as<std::uint64_t>(&bytes[8]) != collection)
    return false;
  for (std::size_t at = header; at + header <= collection;) {
    const auto index = load_as<std::uint16_t>(&bytes[at]);
    const auto size = load_as<std::uint64_t>(&bytes[at + 8]);
    if (size > collection) return false;
    // The free space, which is object 0, counts its header; the others are padded to 8 bytes.
    const std::uint64_t step = index == 0 ? size : header + (size + 7) / 8 * 8;
    if (step < header || step > collection - at) return false;
    at += step;
  }
  return true;
}

H5FD_t* open_view(const char*, unsigned, hid_t access, haddr_t) {
  const auto* source = static_cast<const Source*>(H5Pget_driver_info(access));
  return source ? &(new View{{}, source->file, source->file->size(), 0})->base : nullptr;
}

herr_t close_view(H5FD_t* file) {
  delete &view_of(file);
  return 0;
}

herr_t read_view(H5FD_t* file, H5FD_mem_t type, hid_t, haddr_t at, std::size_t count, void* to) {
  const View& view = view_of(file);
  const std::span all(static_cast<std::byte*>(to), count);
  // Behind the file's end it reads zeros, as with its own drivers.
  const std::size_t there = std::min<std::uint64_t>(count, view.bytes - std::min(view.bytes, at));
  try {
    view.file->read_at(at, all.first(there));
  } catch (const Error&) {
    return -1;  // libhdf5 is C: the caller's check says which call failed
  }
  std::ranges::fill(all.subspan(there), std::byte{0});
  // libhdf5 reads heaps as raw data, and no other raw data is asked of it.
  const bool is_heap = type == H5FD_MEM_DRAW || type == H5FD_MEM_GHEAP;
  return is_heap && !heap_is_sound(all) ? -1 : 0;
}

const H5FD_class_t view_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = H5_VFD_RESERVED,  // from here on for drivers that are not libhdf5's
#endif
    .name = "strata_shard_view",
    .maxaddr = HADDR_MAX,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(Source),
    .open = open_view,
    .close = close_view,
    .get_eoa = [](const H5FD_t* file, H5FD_mem_t) { return view_of(file).end_of_allocation; },
    .set_eoa =
        [](H5FD_t* file, H5FD_mem_t, haddr_t end) {
          view_of(file).end_of_allocation = end;
          return 0;
        },
    .get_eof = [](const H5FD_t* file, H5FD_mem_t) { return haddr_t{view_of(file).bytes}; },
    .read = read_view,
    .write = [](H5FD_t*, H5FD_mem_t, hid_t, haddr_t, std::size_t, const void*) { return -1; },
    .fl_map = H5FD_FLMAP_DICHOTOMY};

}  // namespace

hid_t shard_view(const FileHandle& file) {
  static const hid_t driver = H5FDregister(&view_class);
  const Source source{&file};
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  if (access >= 0 && H5Pset_driver(access, driver, &source) < 0) {
    H5Pclose(access);
    return -1;
  }
  return access;
}

}  // namespace strata
