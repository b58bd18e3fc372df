// Shards that our reader and libhdf5 must understand alike: ours read by libhdf5, and another
// program's by us.

#include "data/hdf5_reader.hpp"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <fstream>

#include "cache_fixture.hpp"
#include "core/error.hpp"
#include "core/file.hpp"
#include "data/cache_reader.hpp"
#include "temporary_folder.hpp"

namespace strata {
namespace {

const std::string goldens = std::string(STRATA_SOURCE_DIR) + "/tests/golden/cache/";

/// What libhdf5 says of one dataset.
struct Seen {
  std::vector<std::uint64_t> extents;
  std::uint64_t offset;
  bool is_of_type;
};

hid_t type_of(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::int64:
      return H5Tcopy(H5T_STD_I64LE);
    case Hdf5Type::uint32:
      return H5Tcopy(H5T_STD_U32LE);
    case Hdf5Type::uint16:
      return H5Tcopy(H5T_STD_U16LE);
    case Hdf5Type::int8:
      return H5Tcopy(H5T_STD_I8LE);
    case Hdf5Type::float32:
      return H5Tcopy(H5T_IEEE_F32LE);
    case Hdf5Type::float16:
      break;
  }
  const hid_t half = H5Tcopy(H5T_IEEE_F32LE);
  H5Tset_fields(half, 15, 10, 5, 0, 10);
  H5Tset_size(half, 2);
  H5Tset_ebias(half, 15);
  return half;
}

Seen see(hid_t file, const std::string& name, Hdf5Type wanted) {
  const hid_t set = H5Dopen2(file, name.c_str(), H5P_DEFAULT), space = H5Dget_space(set),
              type = H5Dget_type(set), same = type_of(wanted);
  std::vector<hsize_t> extents(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, extents.data(), nullptr);
  const Seen seen{{extents.begin(), extents.end()}, H5Dget_offset(set), H5Tequal(type, same) > 0};
  H5Tclose(same);
  H5Tclose(type);
  H5Sclose(space);
  H5Dclose(set);
  return seen;
}

TEST(Hdf5Reader, SaysOfOurShardsWhatLibhdf5Says) {
  const TemporaryFolder folder;
  for (const CacheDType dtype :
       {CacheDType::bfloat16, CacheDType::float16, CacheDType::float32, CacheDType::int8}) {
    const std::string dir = folder / std::string(name_of(dtype));
    CacheBuilder builder(dir, text_plan(7, dtype));
    builder.prepare();
    write_shard(builder, 0);
    builder.publish();
    const std::string path = dir + "/shard-00000.h5";
    const Hdf5File ours = read_hdf5(FileHandle::open_for_reading(path));
    EXPECT_EQ(ours.datasets.size(), dtype == CacheDType::int8 ? 6u : 5u);
    EXPECT_EQ(ours.texts.at("provenance"), "seed=17");
    EXPECT_EQ(ours.datasets.at("values").texts.at("dtype"), name_of(dtype));
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    for (const auto& [name, dataset] : ours.datasets) {
      ASSERT_TRUE(dataset.type && dataset.offset) << name;
      const Seen theirs = see(file, name, *dataset.type);
      EXPECT_TRUE(theirs.is_of_type) << name_of(dtype) << " " << name;
      EXPECT_EQ(dataset.extents, theirs.extents) << name;
      EXPECT_EQ(*dataset.offset, theirs.offset) << name;
    }
    H5Fclose(file);
  }
}

/// Goldens of tools/makers/goldens_cache.py.
TEST(Hdf5Reader, CachesOfH5pyAreRead) {
  for (const std::string name : {"text", "latent"}) {
    const CacheReader cache(goldens + name);
    EXPECT_EQ(cache.provenance(), "by h5py");
    EXPECT_EQ(cache.rows(), name == "text" ? 6 : 3);
    std::vector<float> pooled(static_cast<std::size_t>(cache.pooled_dim()));
    for (std::int64_t row = 0; row < cache.rows(); ++row) {
      const std::int64_t count = cache.tokens(row) * cache.manifest().elements();
      std::vector<float> values(static_cast<std::size_t>(count));
      cache.read_row(row, values.data(), pooled.data());
      for (std::int64_t e = 0; e < count; ++e) EXPECT_EQ(values[e], fixture_value(row, e));
      for (std::size_t e = 0; e < pooled.size(); ++e)
        EXPECT_EQ(pooled[e], fixture_value(row, static_cast<std::int64_t>(e)));
    }
    EXPECT_NO_THROW(verify_cache(goldens + name));
  }
}

std::string refusal(const std::string& path) {
  try {
    read_hdf5(FileHandle::open_for_reading(path));
  } catch (const Error& error) {
    return error.code() == Exit::data ? error.what() : "another code";
  }
  return "nothing was refused";
}

TEST(Hdf5Reader, NamesWhatItDoesNotRead) {
  const TemporaryFolder folder;
  const std::string old = folder / "old.h5", other = folder / "other.h5";
  H5Fclose(H5Fcreate(old.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  EXPECT_NE(refusal(old).find("a superblock of version 0: is not of libver v110"),
            std::string::npos)
      << refusal(old);
  std::ofstream(other) << std::string(64, 'x');
  EXPECT_TRUE(refusal(other).ends_with("other.h5: is not HDF5")) << refusal(other);
  const std::string sound = read_file(goldens + "text/shard-00000.h5");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{47}, sound.size() - 1}) {
    std::ofstream(other) << sound.substr(0, bytes);
    EXPECT_NE(refusal(other).find("other.h5: HDF5 metadata at byte 0: "), std::string::npos)
        << refusal(other);
  }
}

}  // namespace
}  // namespace strata
