// The reader's promise: whatever bytes the file holds, the answer is the tensors or Error(65), and
// nothing outside the file is read.

#include "core/safetensors.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "core/file.hpp"

namespace strata {
namespace {

class SafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/safetensors-" + std::to_string(::getpid()) + "-" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string put(const std::string& name, const std::string& bytes) const {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  std::string dir_;
};

std::string prefixed(std::uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

/// A file whose length field tells the truth.
std::string file_with(const std::string& header, std::size_t data_bytes) {
  return prefixed(header.size(), header + std::string(data_bytes, 'x'));
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}

struct Hostile {
  const char* label;
  std::string bytes;
  const char* said;  // part of the message
};

std::vector<Hostile> hostile_files() {
  const std::string good = tensor("w", "F32", "[1]", "[0,4]");
  const auto one = [](const std::string& item) { return "{" + item + "}"; };
  std::string million = "[1";
  for (int i = 0; i < 999'999; ++i) million += ",1";
  million += "]";
  return {
      {"empty file", "", "too short"},
      {"seven bytes", "1234567", "too short"},
      {"length 0", prefixed(0, "{}"), "does not begin"},
      {"length 1", prefixed(1, "{}"), "does not begin"},
      {"length 7 over 2", prefixed(7, "{}"), "past the end"},
      {"length 2^31", prefixed(std::uint64_t{1} << 31, "{}"), "is over"},
      {"length 2^63", prefixed(std::uint64_t{1} << 63, "{}"), "is over"},
      {"length 2^64-1", prefixed(~std::uint64_t{0}, "{}"), "is over"},
      {"length 2^64-8", prefixed(~std::uint64_t{0} - 7, "{}"), "is over"},
      {"length 100000001", prefixed(100'000'001, "{}"), "is over"},
      {"length 100000000", prefixed(100'000'000, "{}"), "past the end"},
      {"no brace", file_with("[]", 0), "does not begin"},
      {"space before the brace", file_with(" {}", 0), "does not begin"},
      {"byte order mark", file_with("\xEF\xBB\xBF{}", 0), "does not begin"},
      {"not closed", file_with(R"({"w":)", 0), "offset"},
      {"comment", file_with("{/**/}", 0), "offset"},
      {"trailing junk", file_with("{}x", 0), "offset"},
      {"two documents", file_with("{}{}", 0), "offset"},
      {"duplicate tensor", file_with(one(good + "," + good), 4), "twice"},
      {"duplicate field",
       file_with(R"({"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
       "twice"},
      {"duplicate metadata", file_with(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
      {"duplicate metadata key", file_with(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {"overlap", file_with(one(good + "," + tensor("v", "F32", "[1]", "[2,6]")), 6), "overlap"},
      {"same place", file_with(one(good + "," + tensor("v", "F32", "[1]", "[0,4]")), 4), "overlap"},
      {"hole", file_with(one(good + "," + tensor("v", "F32", "[1]", "[5,9]")), 9), "hole"},
      {"hole at the start", file_with(one(tensor("w", "F32", "[1]", "[4,8]")), 8), "hole"},
      {"end before begin", file_with(one(tensor("w", "F32", "[1]", "[4,0]")), 4), "not inside"},
      {"end past the file", file_with(one(tensor("w", "F32", "[2]", "[0,8]")), 4), "not inside"},
      {"trailing bytes", file_with(one(good), 5), "after the last tensor"},
      {"shape smaller than the bytes", file_with(one(tensor("w", "F32", "[1]", "[0,8]")), 8),
       "need"},
      {"shape overflow", file_with(one(tensor("w", "F32", "[4294967296,4294967296]", "[0,4]")), 4),
       "overflows"},
      {"shape overflow to the right size",
       file_with(one(tensor("w", "F32", "[4611686018427387905]", "[0,4]")), 4), "overflows"},
      {"overflow behind a zero",
       file_with(one(tensor("w", "F32", "[4294967296,4294967296,0]", "[0,0]")), 0), "overflows"},
      {"dimension 2^63", file_with(one(tensor("w", "U8", "[9223372036854775808]", "[0,4]")), 4),
       "too large"},
      {"rank 10^6", file_with(one(tensor("w", "F32", million, "[0,4]")), 4), "more than 32"},
      {"negative dimension", file_with(one(tensor("w", "F32", "[-1]", "[0,4]")), 4), "negative"},
      {"float dimension", file_with(one(tensor("w", "F32", "[1.0]", "[0,4]")), 4), "integer"},
      {"dimension 1e400", file_with(one(tensor("w", "F32", "[1e400]", "[0,4]")), 4), "offset"},
      {"dimension 10^30",
       file_with(one(tensor("w", "F32", "[1" + std::string(30, '0') + "]", "[0,4]")), 4),
       "integer"},
      {"negative offset", file_with(one(tensor("w", "F32", "[1]", "[-4,0]")), 4), "negative"},
      {"one offset", file_with(one(tensor("w", "F32", "[1]", "[0]")), 4), "1 numbers"},
      {"three offsets", file_with(one(tensor("w", "F32", "[1]", "[0,4,8]")), 4), "3 numbers"},
      {"unknown dtype", file_with(one(tensor("w", "Q4_K", "[1]", "[0,4]")), 4), "unknown dtype"},
      {"sub-byte dtype", file_with(one(tensor("w", "F4", "[8]", "[0,4]")), 4), "unknown dtype"},
      {"lower-case dtype", file_with(one(tensor("w", "f32", "[1]", "[0,4]")), 4), "unknown dtype"},
      {"dtype is a number", file_with(R"({"w":{"dtype":4,"shape":[1],"data_offsets":[0,4]}})", 4),
       "a number"},
      {"shape is a string",
       file_with(R"({"w":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4), "a string"},
      {"shape is an object",
       file_with(R"({"w":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4), "an object"},
      {"shape in a shape", file_with(one(tensor("w", "F32", "[[1]]", "[0,4]")), 4), "an array"},
      {"null in the shape", file_with(one(tensor("w", "F32", "[null]", "[0,4]")), 4), "null"},
      {"true for a tensor", file_with(R"({"w":true})", 0), "a boolean"},
      {"no dtype", file_with(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4), "dtype"},
      {"no shape", file_with(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), "shape"},
      {"no offsets", file_with(R"({"w":{"dtype":"F32","shape":[1]}})", 4), "data_offsets"},
      {"unknown field",
       file_with(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":"y"}})", 4),
       "unknown key"},
      {"metadata not a string", file_with(R"({"__metadata__":{"a":1}})", 0), "a number"},
      {"metadata nested", file_with(R"({"__metadata__":{"a":{"b":"c"}}})", 0), "an object"},
      {"metadata an array", file_with(R"({"__metadata__":[]})", 0), "an array"},
      {"deep nest", file_with("{\"w\":" + std::string(1'000'000, '['), 0), "an array"},
      {"deep objects",
       file_with(
           [] {
             std::string text;
             for (int i = 0; i < 100'000; ++i) text += "{\"a\":";
             return text;
           }(),
           0),
       "unknown key"},
      {"invalid UTF-8 in a name", file_with("{\"\xFF\":{}}", 0), "offset"},
      {"lone surrogate in a name", file_with(R"({"\ud800":{}})", 0), "offset"},
      {"newline in a key", file_with("{\"a\":{\"dty\\npe\":1}}", 4), "unknown key \"dty\\npe\""},
      {"newline in a dtype", file_with(one(tensor("a", "F\\n32", "[1]", "[0,4]")), 4),
       "unknown dtype"},
      {"newline in a name", file_with(one(tensor("a\\nb", "F32", "[1]", "[0,4]")), 4), "control"},
      {"NUL byte in the header", file_with(std::string("{\0}", 3), 0), "offset"},
  };
}

TEST_F(SafetensorsTest, RefusesHostileHeaders) {
  const auto files = hostile_files();
  ASSERT_GE(files.size(), 60u);
  for (const Hostile& hostile : files) {
    const std::string path = put("hostile.safetensors", hostile.bytes);
    try {
      SafetensorsFile file(path);
      ADD_FAILURE() << hostile.label << ": was accepted";
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.code(), Exit::data) << hostile.label << ": " << text;
      EXPECT_NE(text.find(path), std::string::npos) << hostile.label << ": " << text;
      EXPECT_NE(text.find(hostile.said), std::string::npos) << hostile.label << ": " << text;
      EXPECT_EQ(text.find('\n'), std::string::npos) << hostile.label << ": " << text;
      EXPECT_LT(text.size(), 1500u) << hostile.label;
    }
  }
}

TEST_F(SafetensorsTest, SurvivesDamage) {
  const std::string header = R"({"__metadata__":{"format":"pt"},)" +
                             tensor("a.weight", "F32", "[2,3]", "[0,24]") + "," +
                             tensor("b", "BF16", "[4]", "[24,32]") + "}";
  const std::string good = file_with(header, 32);
  std::mt19937 random(17);
  int accepted = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = good;
    for (int change = 0; change <= round % 4; ++change) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, 1, "{}[]\",:0129eE.-"[random() % 15]);
          break;
      }
      if (bytes.empty()) bytes = "x";
    }
    try {
      const SafetensorsFile file(put("damaged", bytes));
      for (const auto& [name, entry] : file.entries()) {
        EXPECT_EQ(file.raw(name).size(), entry.end - entry.begin);
        if (entry.dtype == "F32") file.read_f32(name);
      }
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << error.what();
    }
  }
  EXPECT_LT(accepted, 500);  // damage in names and data is not seen; in all else it is
}

TEST_F(SafetensorsTest, AcceptsTheCornersOfTheFormat) {
  // Padding behind the header, an empty file, a scalar, an empty tensor, tensors out of order.
  EXPECT_TRUE(SafetensorsFile(put("a", file_with("{}      ", 0))).entries().empty());
  const std::string header = "{" + tensor("late", "U8", "[4]", "[4,8]") + "," +
                             tensor("none", "F32", "[0,7]", "[4,4]") + "," +
                             tensor("scalar", "F32", "[]", "[0,4]") + "}";
  const SafetensorsFile file(put("b", file_with(header, 8)));
  EXPECT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.read_f32("scalar").tensor().shape.rank(), 0);
  EXPECT_EQ(file.read_f32("none").tensor().numel(), 0);
  EXPECT_EQ(file.raw("late"), "xxxx");
}

TEST_F(SafetensorsTest, RefusesWhatCannotBeRead) {
  const std::string header = "{" + tensor("deep", "F32", "[1,1,1,1,1]", "[0,4]") + "," +
                             tensor("int", "I32", "[1]", "[4,8]") + "}";
  const SafetensorsFile file(put("a", file_with(header, 8)));
  const auto code = [](auto&& body) {
    try {
      body();
    } catch (const Error& error) {
      return error.code();
    }
    return Exit::ok;
  };
  EXPECT_EQ(code([&] { file.read_f32("deep"); }), Exit::data);
  EXPECT_EQ(code([&] { file.read_f32("int"); }), Exit::data);
  EXPECT_EQ(code([&] { file.read_i64("deep"); }), Exit::data);
  EXPECT_EQ(code([&] { file.read_f32("absent"); }), Exit::data);
  EXPECT_EQ(code([&] { SafetensorsFile absent(dir_ + "/absent"); }), Exit::data);
  EXPECT_EQ(code([&] { SafetensorsFile folder(dir_); }), Exit::data);
}

TEST_F(SafetensorsTest, WritesWhatItReads) {
  Buffer f(DType::f32, {2, 3}), b(DType::bf16, {3}), i(DType::i64, {2, 1});
  const float values[] = {1.5f, -0.0f, 3e38f, std::numeric_limits<float>::infinity(), 1e-40f, 7};
  std::memcpy(f.as<float>(), values, sizeof values);
  for (int k = 0; k < 3; ++k) b.as<bf16>()[k] = to_bf16(0.1f * static_cast<float>(k));
  i.as<std::int64_t>()[0] = -5;
  i.as<std::int64_t>()[1] = std::int64_t{1} << 62;

  SafetensorsWriter writer;
  writer.set_metadata({{"format", "pt"}, {"note", "line\n\"quoted\""}});
  writer.add("odd \"name\"", f.tensor());
  writer.add("half", b.tensor());
  writer.add("ids", i.tensor());
  const std::string path = dir_ + "/out.safetensors";
  writer.write(path);

  std::uint64_t length = 0;
  const std::string bytes = read_file(path);
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("note"), "line\n\"quoted\"");
  EXPECT_EQ(file.raw("odd \"name\""),
            std::string_view(reinterpret_cast<const char*>(values), sizeof values));
  EXPECT_EQ(file.read_f32("half").as<float>()[2], to_float(to_bf16(0.2f)));
  EXPECT_EQ(file.read_i64("ids").as<std::int64_t>()[1], std::int64_t{1} << 62);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 1) << "temporary left";
}

TEST_F(SafetensorsTest, WidensHalfExactly) {
  // 1, -2, smallest subnormal, largest normal, infinity, NaN
  const std::uint16_t halves[] = {0x3C00, 0xC000, 0x0001, 0x7BFF, 0x7C00, 0x7E00};
  const std::string header = "{" + tensor("h", "F16", "[6]", "[0,12]") + "}";
  const Buffer wide =
      SafetensorsFile(
          put("a", prefixed(header.size(),
                            header + std::string(reinterpret_cast<const char*>(halves), 12))))
          .read_f32("h");
  const float* x = wide.as<float>();
  EXPECT_EQ(x[0], 1.0f);
  EXPECT_EQ(x[1], -2.0f);
  EXPECT_EQ(x[2], 0x1p-24f);
  EXPECT_EQ(x[3], 65504.0f);
  EXPECT_TRUE(std::isinf(x[4]));
  EXPECT_TRUE(std::isnan(x[5]));
}

TEST_F(SafetensorsTest, ReadsShardsAndRefusesPaths) {
  put("s-1.safetensors", file_with("{" + tensor("a", "F32", "[1]", "[0,4]") + "}", 4));
  put("s-2.safetensors", file_with("{" + tensor("b", "F32", "[1]", "[0,4]") + "}", 4));
  const auto open = [&](const std::string& index) {
    put("model.safetensors.index.json", index);
    return SafetensorsFolder(dir_, "model").names();
  };
  EXPECT_EQ(open(R"({"metadata":{},"weight_map":{"a":"s-1.safetensors","b":"s-2.safetensors"}})"),
            (std::vector<std::string>{"a", "b"}));
  for (const char* index :
       {R"({"weight_map":{"a":"../s-1.safetensors"}})", R"({"weight_map":{"a":"/etc/passwd"}})",
        R"({"weight_map":{"a":"sub/s-1.safetensors"}})", R"({"weight_map":{"a":""}})",
        R"({"weight_map":{"a":".."}})", R"({"weight_map":{"a":"s\u0000.safetensors"}})",
        R"({"weight_map":{"a":1}})", R"({"weight_map":{}})", R"({"weight_map":[]})", "{}", "[]", "",
        R"({"weight_map":{"a":"s-2.safetensors"}})", R"({"weight_map":{"c":"s-1.safetensors"}})",
        R"({"weight_map":{"a":"absent.safetensors"}})",
        R"({"weight_map":{"a":"s-1.safetensors","a":"s-2.safetensors"}})"}) {
    try {
      open(index);
      ADD_FAILURE() << index << ": was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::data) << index << ": " << error.what();
    }
  }
}

TEST_F(SafetensorsTest, NamesPickleFiles) {
  put("pytorch_model.bin", "x");
  try {
    SafetensorsFolder folder(dir_, "model");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Exit::data);
    EXPECT_NE(std::string(error.what()).find("pytorch_model.bin: pickle"), std::string::npos);
  }
}

TEST_F(SafetensorsTest, AFileCutShortUnderItsReaderEndsWith74AndItsName) {
  const std::size_t bytes = 1 << 20;
  const auto path = put(
      "w.safetensors", file_with("{" + tensor("a", "U8", "[1048576]", "[0,1048576]") + "}", bytes));
  const SafetensorsFile file(path);
  const SafetensorsFile other(put("other.safetensors", file_with("{}", 0)));
  const std::string_view raw = file.raw("a");
  EXPECT_EQ(raw.back(), 'x');
  std::filesystem::resize_file(path, 8192);
  EXPECT_EQ(raw.front(), 'x');  // what is left can still be read
  EXPECT_EXIT(std::exit(raw.back() == 'x'), ::testing::ExitedWithCode(74),
              "strata: error: .*w[.]safetensors: became shorter");
}

TEST_F(SafetensorsTest, HashesKnownAnswers) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_file(put("a", "abc")), sha256_hex("abc"));
  const std::vector<std::string> parts{put("b", "a"), put("c", "bc")};
  EXPECT_EQ(sha256_files(parts), sha256_hex("abc"));
  EXPECT_EQ(crc32c(0, "123456789", 9), 0xE3069283u);  // RFC 3720's check value
  EXPECT_EQ(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
  EXPECT_EQ(xxh3(""), 0x2D06800538D394C2u);
}

}  // namespace
}  // namespace strata
