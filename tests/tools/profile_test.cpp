// `strata profile step` as a user runs it.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "model/unet.hpp"
#include "tests/tools/command_test.hpp"

namespace strata {
namespace {

class Profile : public CommandTest {
 protected:
  Profile() {
    std::ofstream(folder_ + "/train.toml")
        << "[data]\nlatents = \"nowhere\"\ntext = \"nowhere\"\n[model]\nunet = \"" << unet()
        << "\"\n[train]\nbatch = 4\nmicrobatch = 2\nthreads = 1\nprecision = \"fp32\"\n"
        << "[output]\ndir = \"" << folder_ << "/run\"\n";
  }
  static std::string unet() { return std::string(STRATA_SOURCE_DIR) + "/configs/models/tiny-unet"; }
  std::string config() const { return "--config '" + folder_ + "/train.toml'"; }

  static double sum(const nlohmann::json& rows, const char* what, const std::string& suffix = "") {
    double total = 0;
    for (const auto& row : rows)
      if (row.at("name").get<std::string>().ends_with(suffix)) total += row.at(what).get<double>();
    return total;
  }
};

TEST_F(Profile, RowsAddUpToAStepAndItsOperations) {
  for (const int ranks : {1, 2}) {
    // mpirun may say something of its own before the document.
    const Outcome run =
        strata("profile step --random --tokens 5 --steps 2 --json " + config(), ranks);
    ASSERT_EQ(run.code, 0) << run.out;
    const auto found = nlohmann::json::parse(run.out.substr(run.out.find('{')));
    EXPECT_EQ(found.at("ranks"), ranks);
    EXPECT_EQ(found.at("images"), 2 * ranks);
    const double seconds = found.at("seconds");
    EXPECT_GT(seconds, 0);
    EXPECT_NEAR(sum(found.at("kinds"), "seconds"), seconds, 1e-6 * seconds);
    EXPECT_NEAR(sum(found.at("blocks"), "seconds"), seconds, 1e-6 * seconds);
    const UNet network(UNetConfig::from_json_file(unet() + "/config.json"));
    const Flops flops = network.flops(8, 8, 5);
    EXPECT_NEAR(sum(found.at("kinds"), "flops", " forward"), 2 * flops.forward,
                1e-9 * flops.forward);
    EXPECT_NEAR(sum(found.at("blocks"), "flops"), sum(found.at("kinds"), "flops"), 1);
  }
}

TEST_F(Profile, TextNamesKindsBlocksAndMemoryAndThePlotIsAFile) {
  const Outcome run = strata("profile step --random --tokens 5 --steps 1 " + config() + " --svg '" +
                             folder_ + "/step.svg'");
  ASSERT_EQ(run.code, 0) << run.out;
  for (const char* word : {"conv weight gradient", "group norm", "down_blocks 0 transformer",
                           "up_blocks 1 resnet", "optimizer", "of memory", "gradients in flight"})
    EXPECT_NE(run.out.find(word), std::string::npos) << word << "\n" << run.out;
  const std::string plot = read_file(folder_ + "/step.svg");
  EXPECT_TRUE(plot.starts_with("<svg xmlns")) << plot.substr(0, 80);
  EXPECT_NE(plot.find("conv input gradient"), std::string::npos);
  EXPECT_FALSE(file_exists(folder_ + "/run"));
}

TEST_F(Profile, WhatIsWrongIsSaid) {
  EXPECT_EQ(strata("profile dance " + config()).code, 64);
  EXPECT_EQ(strata("profile step --steps 0 --random " + config()).code, 64);
  EXPECT_EQ(strata("profile step " + config()).code, 65);  // its caches are not there
}

}  // namespace
}  // namespace strata
