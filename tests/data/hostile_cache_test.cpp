// A cache whose manifest was forged along with its shard: every checksum is right, and what a
// reader of HDF5 would follow, inflate or look up elsewhere is refused without another file being
// opened.

#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <functional>

#include "core/error.hpp"
#include "data/cache_reader.hpp"
#include "temporary_folder.hpp"

namespace strata {
namespace {

constexpr hsize_t rows = 2, tokens = 3, dim = 4;

/// Whether a file was opened since it is watched.
class Watch {
 public:
  explicit Watch(const std::string& path) : fd_(inotify_init1(IN_NONBLOCK)) {
    inotify_add_watch(fd_, path.c_str(), IN_OPEN | IN_ACCESS);
  }
  ~Watch() { close(fd_); }
  bool was_opened() const {
    std::array<char, 4096> events{};
    return read(fd_, events.data(), events.size()) > 0;
  }

 private:
  int fd_;
};

/// What the attacks below put together; only `values` and further links differ from a sound shard.
class Shard {
 public:
  explicit Shard(const std::string& path) {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    const std::array<std::int64_t, 2> sample{0, 1};
    const std::array<std::int64_t, 3> offsets{0, 1, tokens};
    const std::array<std::uint32_t, 2> crc{};
    put("sample", {rows}, H5T_STD_I64LE, H5T_NATIVE_INT64, sample.data());
    put("offsets", {rows + 1}, H5T_STD_I64LE, H5T_NATIVE_INT64, offsets.data());
    put("crc32c", {rows}, H5T_STD_U32LE, H5T_NATIVE_UINT32, crc.data());
  }
  ~Shard() { H5Fclose(file); }

  static hid_t space_of(const std::vector<hsize_t>& extents) {
    return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
  }
  void put(const char* name, const std::vector<hsize_t>& extents, hid_t type, hid_t memory,
           const void* data) const {
    const hid_t space = space_of(extents);
    const hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
  }
  /// /values as asked for, with the attribute that says f32.
  void values(const std::vector<hsize_t>& extents, hid_t type, hid_t creation) const {
    const hid_t space = space_of(extents);
    const hid_t set = H5Dcreate2(file, "values", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    ASSERT_GE(set, 0);
    note(set);
    H5Dclose(set);
    H5Sclose(space);
  }
  static void note(hid_t set, const char* name = "dtype") {
    const hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR);
    H5Tset_size(text, 8);
    const hid_t attribute = H5Acreate2(set, name, text, scalar, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, text, "float32");
    H5Aclose(attribute);
    H5Sclose(scalar);
    H5Tclose(text);
  }

  hid_t file = -1;
};

hid_t creation() {
  const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
  return plist;
}

class HostileCache : public testing::Test {
 protected:
  HostileCache() {
    const hid_t space = Shard::space_of({tokens, dim});
    const hid_t file = H5Fcreate(victim_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t set =
        H5Dcreate2(file, "values", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    const std::vector<float> secret(tokens * dim, 1.0f);
    H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, secret.data());
    H5Dclose(set);
    H5Sclose(space);
    H5Fclose(file);
    make_directories(dir_);
  }

  /// A manifest whose every check fits the shard that is there.
  void forge(std::int64_t count = rows) const {
    const std::string bytes = read_file(shard_);
    CacheManifest m;
    m.kind = CacheKind::text;
    m.dtype = CacheDType::float32;
    m.count = count;
    m.tokens = tokens;
    m.dim = dim;
    m.shape = {dim};
    m.strategy = "last";
    const std::size_t values = tokens * dim * sizeof(float);
    m.shards.push_back({shard_name(0), m.count, m.tokens, static_cast<std::int64_t>(bytes.size()),
                        sha256_hex(bytes), sha256_hex(bytes.substr(0, bytes.size() - values))});
    std::ofstream(dir_ + "/manifest.json") << m.to_json();
  }

  std::string refusal() const {
    const Watch watch(victim_);
    std::string what = "nothing was refused";
    try {
      const CacheReader cache(dir_);
      std::vector<float> row(tokens * dim);
      cache.read_row(1, row.data(), nullptr);
    } catch (const Error& error) {
      what = error.code() == Exit::data ? error.what() : "another code";
    }
    if (watch.was_opened()) what += "; ANOTHER FILE WAS OPENED";
    return what;
  }

  /// The refusal of a shard that `attack` finishes.
  std::string refusal_of(const std::function<void(const Shard&, hid_t plist)>& attack) const {
    {
      const Shard shard(shard_);
      const hid_t plist = creation();
      attack(shard, plist);
      H5Pclose(plist);
    }
    forge();
    return refusal();
  }

  TemporaryFolder folder_;
  const std::string victim_ = folder_ / "victim.h5", dir_ = folder_ / "cache",
                    shard_ = dir_ + "/shard-00000.h5";
};

TEST_F(HostileCache, ASoundForgeryIsReadUpToItsRowsChecksum) {
  const std::string what = refusal_of([](const Shard& s, hid_t plist) {
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
  });
  EXPECT_NE(what.find("sample 1: CRC-32C"), std::string::npos) << what;
}

TEST_F(HostileCache, NoOtherFileIsOpened) {
  const std::string victim = victim_;
  const auto external = [&](const Shard& s, hid_t) {
    const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(plist, victim.c_str(), 0, tokens * dim * sizeof(float));
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
    H5Pclose(plist);
  };
  const auto virtual_of = [&](hsize_t most) {
    return [&, most](const Shard& s, hid_t) {
      const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
      const std::array<hsize_t, 2> now{tokens, dim}, largest{most, dim}, start{0, 0}, one{1, 1};
      const hid_t space = H5Screate_simple(2, now.data(), largest.data());
      const std::array<hsize_t, 2> count{most == H5S_UNLIMITED ? H5S_UNLIMITED : 1, 1};
      const std::array<hsize_t, 2> block{most == H5S_UNLIMITED ? 1 : tokens, dim};
      H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(),
                          most == H5S_UNLIMITED ? one.data() : nullptr, count.data(), block.data());
      ASSERT_GE(H5Pset_virtual(plist, space, victim.c_str(), "values", space), 0);
      const hid_t set =
          H5Dcreate2(s.file, "values", H5T_IEEE_F32LE, space, H5P_DEFAULT, plist, H5P_DEFAULT);
      ASSERT_GE(set, 0);
      Shard::note(set);
      H5Dclose(set);
      H5Sclose(space);
      H5Pclose(plist);
    };
  };
  const auto external_link = [&](const Shard& s, hid_t) {
    H5Lcreate_external(victim.c_str(), "/values", s.file, "values", H5P_DEFAULT, H5P_DEFAULT);
  };
  const auto further_link = [&](const Shard& s, hid_t plist) {
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
    H5Lcreate_external(victim.c_str(), "/values", s.file, "more", H5P_DEFAULT, H5P_DEFAULT);
  };
  EXPECT_NE(refusal_of(external).find("/values: lies in another file"), std::string::npos)
      << refusal_of(external);
  for (const hsize_t most : {hsize_t{tokens}, hsize_t{H5S_UNLIMITED}}) {
    const std::string what = refusal_of(virtual_of(most));
    EXPECT_TRUE(what.ends_with("/values: is not contiguous")) << what;
  }
  for (const auto& link : {std::function<void(const Shard&, hid_t)>(external_link),
                           std::function<void(const Shard&, hid_t)>(further_link)}) {
    const std::string what = refusal_of(link);
    EXPECT_TRUE(what.ends_with("holds links that a cache has not")) << what;
  }
}

TEST_F(HostileCache, NothingButPlainDatasetsIsTaken) {
  const auto with = [](const std::vector<hsize_t>& extents, hid_t type) {
    return [=](const Shard& s, hid_t plist) { s.values(extents, type, plist); };
  };
  const auto chunked = [](const std::function<void(hid_t)>& filter) {
    return [=](const Shard& s, hid_t plist) {
      const std::array<hsize_t, 2> chunk{1, dim};
      H5Pset_chunk(plist, 2, chunk.data());
      filter(plist);
      s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
    };
  };
  const auto compact = [](const Shard& s, hid_t plist) {
    H5Pset_layout(plist, H5D_COMPACT);
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
  };
  const auto soft = [](const Shard& s, hid_t) {
    H5Lcreate_soft("/sample", s.file, "values", H5P_DEFAULT, H5P_DEFAULT);
  };
  const auto cycle = [](const Shard& s, hid_t) {
    H5Lcreate_hard(s.file, "/", s.file, "values", H5P_DEFAULT, H5P_DEFAULT);
  };
  const auto bomb = [](const Shard& s, hid_t) {
    const hid_t late = H5Pcreate(H5P_DATASET_CREATE);
    s.values({hsize_t{1} << 60, 1}, H5T_STD_I8LE, late);
    H5Pclose(late);
  };
  const auto wide_pooled = [&](const Shard& s, hid_t plist) {
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
    const hid_t late = H5Pcreate(H5P_DATASET_CREATE);
    const hid_t space = Shard::space_of({rows, hsize_t{1} << 40});
    H5Dclose(H5Dcreate2(s.file, "pooled", H5T_IEEE_F32LE, space, H5P_DEFAULT, late, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(late);
  };
  // libhdf5 moves what is more than eight into a heap.
  const auto nine = [&](const std::function<void(const Shard&, const char* name)>& make) {
    return [&, make](const Shard& s, hid_t plist) {
      s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
      for (const char* name : {"1", "2", "3", "4", "5", "6", "7", "8", "9"}) make(s, name);
    };
  };
  const auto attributes = nine([](const Shard& s, const char* name) { Shard::note(s.file, name); });
  const auto links = nine([](const Shard& s, const char* name) {
    H5Lcreate_hard(s.file, "values", s.file, name, H5P_DEFAULT, H5P_DEFAULT);
  });
  const auto group = [&](const Shard& s, hid_t plist) {
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
    H5Gclose(H5Gcreate2(s.file, "more", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  };
  const hid_t ragged = H5Tvlen_create(H5T_IEEE_F32LE), text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  const std::pair<std::function<void(const Shard&, hid_t)>, const char*> attacks[] = {
      {with({tokens, dim}, ragged), "is of another type"},
      {with({tokens, dim}, text), "is of another type"},
      {with({tokens, dim}, H5T_STD_REF_OBJ), "is of another type"},
      {with({tokens, dim}, H5T_IEEE_F32BE), "is of another type"},
      {with({tokens * dim}, H5T_IEEE_F32LE), "is of another rank"},
      {with({dim, tokens}, H5T_IEEE_F32LE), "is of another shape"},
      {chunked([](hid_t) {}), "is not contiguous"},
      {chunked([](hid_t p) { H5Pset_fletcher32(p); }), "is not contiguous"},
      {chunked([](hid_t p) { H5Pset_deflate(p, 9); }), "is not contiguous"},
      {compact, "is not contiguous"},
      {soft, "holds links that a cache has not"},
      {cycle, "/values: is no dataset"},
      {bomb, "is of another type"},
      {wide_pooled, "/pooled: width"},
      {attributes, "holds more attributes than a cache has"},
      {links, "holds more links than a cache has"},
      {group, "/more: is no dataset"},
      {[](const Shard&, hid_t) {}, "/values is missing"},
  };
  int number = 0;
  for (const auto& [attack, reason] : attacks) {
    const std::string what = refusal_of(attack);
    EXPECT_NE(what.find(reason), std::string::npos) << number << ": " << what;
    EXPECT_EQ(what.find("OPENED"), std::string::npos) << number << ": " << what;
    ++number;
  }
  H5Tclose(ragged);
  H5Tclose(text);
}

/// libhdf5 1.10 never comes back from the first of these.
TEST_F(HostileCache, AHeapOfStringsThatLeadsAstrayIsNotFollowed) {
  refusal_of([](const Shard& s, hid_t plist) {
    const hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR);
    H5Tset_size(text, H5T_VARIABLE);
    H5Tset_cset(text, H5T_CSET_UTF8);
    const hid_t attribute =
        H5Acreate2(s.file, "provenance", text, scalar, H5P_DEFAULT, H5P_DEFAULT);
    const char* value = "seed=17";
    H5Awrite(attribute, text, &value);
    H5Aclose(attribute);
    H5Sclose(scalar);
    H5Tclose(text);
    s.values({tokens, dim}, H5T_IEEE_F32LE, plist);
  });
  EXPECT_NE(refusal().find("sample 1: CRC-32C"), std::string::npos) << refusal();
  const std::string sound = read_file(shard_);
  const std::size_t heap = sound.find("GCOL");
  ASSERT_NE(heap, std::string::npos);
  const auto refusal_with = [&](std::size_t at, std::uint64_t value, bool is_free_space) {
    std::string bytes = sound;
    std::memcpy(&bytes[heap + at], &value, sizeof value);
    if (is_free_space) bytes[heap + 16] = 0;  // the first object's number
    std::ofstream(shard_, std::ios::binary) << bytes;
    forge();
    return refusal();
  };
  constexpr std::size_t collection_size = 8, object_size = 24;
  const std::pair<std::string, const char*> attacks[] = {
      {refusal_with(object_size, 0, true), "string 1 is not in its heap"},
      {refusal_with(object_size, 1 << 12, true), "string 1 is not in its heap"},
      {refusal_with(object_size, std::uint64_t{0} - 16, false), "reaches past its heap"},
      {refusal_with(object_size, std::uint64_t{1} << 40, false), "reaches past its heap"},
      {refusal_with(collection_size, 0, false), "cut off: 0 bytes of 16"},
      {refusal_with(collection_size, 8, false), "cut off: 8 bytes of 16"},
      {refusal_with(collection_size, 8192, false), "8192 bytes are more than there can be"},
      {refusal_with(collection_size, ~std::uint64_t{0}, false), "are more than there can be"}};
  for (const auto& [what, reason] : attacks)
    EXPECT_NE(what.find(reason), std::string::npos) << what;
}

TEST_F(HostileCache, AManifestThatPromisesMoreRowsAllocatesNothing) {
  refusal_of([](const Shard& s, hid_t plist) { s.values({tokens, dim}, H5T_IEEE_F32LE, plist); });
  for (const std::int64_t count : {std::int64_t{3}, std::int64_t{1} << 40, std::int64_t{1} << 53}) {
    forge(count);
    EXPECT_NE(refusal().find("is of another shape"), std::string::npos) << refusal();
  }
}

}  // namespace
}  // namespace strata
