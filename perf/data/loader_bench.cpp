// How fast the training's loader reads a ragged cache of wide bf16 embeddings, from the page cache
// and from the disk, against what pread alone gives in the same run, and how long training waits
// for it. Medians, with the least and the most.
//   loader_bench DIR [GB=1.5] [DIM=4096] [BATCH=32] [ROUNDS=5]
// The caches are made below DIR and stay there.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/file_handle.hpp"
#include "data/loader.hpp"
#include "perf/peaks.hpp"
#include "random_caches.hpp"
#include "train/run_folder.hpp"
#include "train/trainer.hpp"

namespace strata {
namespace {

struct Spread {
  double median, least, most;
};
Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

class LoaderBench {
 public:
  LoaderBench(std::string dir, double gigabytes, std::int64_t dim, std::int64_t batch, int rounds)
      : dir_(std::move(dir)), batch_(batch), rounds_(rounds) {
    random_ = RandomCaches{.dim = dim, .shortest = 8, .longest = 128, .latent_size = 16};
    const double row = static_cast<double>((random_.shortest + random_.longest) * dim);
    random_.samples = std::max(batch, static_cast<std::int64_t>(gigabytes * 1e9 / row));
    std::fprintf(stderr, "writing %lld samples below %s\n", static_cast<long long>(random_.samples),
                 dir_.c_str());
    random_.write(dir_);
    for (const char* kind : {"/text", "/latents"})
      for (const auto& entry : std::filesystem::directory_iterator(dir_ + kind))
        if (entry.path().extension() == ".h5") shards_.push_back(entry.path());
  }

  void run() {
    const CacheSet caches = CacheSet::open(dir_ + "/latents", dir_ + "/text");
    report("pread alone, from memory", [&] { return read_files(); });
    report("loader, from memory", [&] { return read_batches(caches, batch_); });
    report("pread alone, from disk", [&] {
      forget();
      return read_files();
    });
    report("loader, from disk", [&] {
      forget();
      return read_batches(caches, batch_);
    });
    train();
  }

 private:
  /// body() returns bytes; the time of `forget` is its own.
  void report(const char* what, auto&& body) {
    std::vector<double> rates;
    double bytes = 0;
    read_files();  // in memory, or at least all alike
    for (int i = 0; i < rounds_; ++i) {
      forgetting_ = 0;
      const double seconds = seconds_of([&] { bytes = body(); });
      rates.push_back(bytes / (seconds - forgetting_) * 1e-9);
    }
    const Spread s = spread_of(rates);
    std::printf("%-28s %6.2f GB/s (%.2f..%.2f) %8.0f samples/s\n", what, s.median, s.least, s.most,
                s.median * 1e9 / bytes * static_cast<double>(random_.samples));
  }

  double read_files() const {
    std::vector<std::byte> block(std::size_t{1} << 20);
    double bytes = 0;
    for (const std::string& path : shards_) {
      const FileHandle file = FileHandle::open_for_reading(path);
      for (std::uint64_t at = 0, n = 0, end = file.size(); at < end; at += n) {
        n = std::min<std::uint64_t>(block.size(), end - at);
        file.read_at(at, std::span(block).first(n));
      }
      bytes += static_cast<double>(file.size());
    }
    return bytes;
  }

  static double read_batches(const CacheSet& caches, std::int64_t batch_size) {
    LoaderSchedule schedule;
    schedule.global_batch = schedule.microbatch = batch_size;
    schedule.steps = caches.size() / batch_size;
    Loader loader(caches, SampleOrder(caches.size(), 17), schedule);
    double bytes = 0;
    for (std::int64_t i = 0; i < schedule.steps; ++i) {
      const Batch batch = loader.next();
      bytes += static_cast<double>(2 * batch.tokens.tensor().numel() +  // as the cache has them
                                   4 * batch.latents.tensor().numel());
    }
    return bytes;
  }

  /// Drops the shards from the page cache.
  void forget() {
    forgetting_ += seconds_of([&] {
      for (const std::string& path : shards_) {
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0 || ::fdatasync(fd) != 0 || ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
          fail_errno(path, "posix_fadvise");
        ::close(fd);
      }
    });
  }

  /// The wait in training steps of a 5.9 M-parameter U-Net.
  void train() const {
    const std::string model = dir_ + "/unet.json", run = dir_ + "/run";
    UNetConfig unet;
    unet.sample_height = unet.sample_width = random_.latent_size;
    unet.block_out_channels = {64, 128, 128};
    unet.down_attention = {true, true, false};
    unet.up_attention = {false, true, true};
    unet.layers_per_block = {1, 1, 1};
    unet.transformer_layers = {{1}, {1}, {1}};
    unet.heads = {4, 8, 8};
    unet.cross_attention_dim = 128;
    unet.encoder_hid_dim = random_.dim;
    write_file_atomically(model, unet.to_json());
    const std::vector<std::string> settings{"data.latents=" + dir_ + "/latents",
                                            "data.text=" + dir_ + "/text",
                                            "model.unet=" + model,
                                            "output.dir=" + run,
                                            fmt::format("train.batch={}", batch_),
                                            fmt::format("train.microbatch={}", batch_),
                                            "train.steps=12",
                                            "train.log_every=1",
                                            "train.checkpoint_every=0"};
    const TrainConfig config = parse_train_config("", "loader_bench", settings);
    TrainOptions options;
    options.resume = "never";
    options.overwrite = true;
    run_training(config, options, *local_communicator());
    double waited = 0, all = 0;
    std::ifstream records(RunFolder{run}.metrics());
    for (std::string line; std::getline(records, line);) {
      const auto record = nlohmann::json::parse(line);
      if (record["step"] <= 2) continue;  // the first ones read before anything was ahead
      waited += record["data_s"].get<double>();
      all += record["step_s"].get<double>();
    }
    std::printf("in training: waited %.3f ms of %.0f ms a step, %.3f %%\n", waited * 1e2, all * 1e2,
                100 * waited / all);
  }

  const std::string dir_;
  RandomCaches random_;
  const std::int64_t batch_;
  const int rounds_;
  std::vector<std::string> shards_;
  double forgetting_ = 0;
};

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  if (argc < 2 || argc > 6) {
    std::fprintf(stderr, "usage: loader_bench DIR [GB=1.5] [DIM=4096] [BATCH=32] [ROUNDS=5]\n");
    return 64;
  }
  const auto number = [&](int i, double otherwise) {
    return argc > i ? std::atof(argv[i]) : otherwise;
  };
  try {
    strata::LoaderBench(argv[1], number(2, 1.5), static_cast<std::int64_t>(number(3, 4096)),
                        static_cast<std::int64_t>(number(4, 32)), static_cast<int>(number(5, 5)))
        .run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "loader_bench: %s\n", error.what());
    return 1;
  }
}
