#include "precompute/cache_text.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <numeric>

#include "core/error.hpp"
#include "core/exec.hpp"
#include "core/log.hpp"
#include "core/process.hpp"
#include "core/progress.hpp"
#include "data/index.hpp"
#include "precompute/shared_build.hpp"
#include "text/batch_order.hpp"
#include "text/padded_passes.hpp"

namespace strata {

namespace {

/// Where the time of a rank goes, and what came of it.
class Ledger {
 public:
  enum Part { tokenizer, model, files };
  /// Runs work() and notes its time.
  template <class F>
  auto timed(Part part, F work) {
    const Note note{*this, part, Clock::now()};
    return work();
  }
  /// Runs work() within what `outer` times, on one of `threads` threads; notes it as `part`
  /// instead.
  template <class F>
  void timed_within(Part outer, Part part, int threads, F work) {
    const auto begin = Clock::now();
    work();
    const double share = since(begin) / threads;
    parts_[part] += share;
    parts_[outer] -= share;
  }
  void add(std::int64_t captions, std::int64_t tokens) {
    captions_ += captions;
    tokens_ += tokens;
  }
  /// "N tokens/s" of all ranks, taken to be as fast as this one.
  std::string token_rate(int ranks) const {
    return fmt::format("{:.0f} tokens/s", static_cast<double>(tokens_) * ranks / elapsed());
  }
  /// Collective: one line about all ranks.
  std::string summary(Communicator& communicator) const {
    double sums[] = {static_cast<double>(captions_),
                     static_cast<double>(tokens_),
                     parts_[tokenizer],
                     parts_[model],
                     parts_[files],
                     elapsed()};
    communicator.all_reduce_sum(sums);
    const ResidentBytes resident = resident_bytes();
    std::int64_t most[] = {peak_resident_bytes(), resident.own, resident.of_files};
    communicator.all_reduce_max(most);
    const double captions = sums[0], tokens = sums[1], all = std::max(sums[5], 1e-9);
    const double wall = all / communicator.size();
    const auto percent = [all](double part) { return 100 * std::max(part, 0.0) / all; };
    return fmt::format(
        "{:.0f} captions, {:.0f} tokens in {}: {:.0f} captions/s, {:.0f} tokens/s; time: model "
        "{:.0f} %, tokenizer {:.0f} %, files {:.0f} %, other {:.0f} %; memory a rank: {} MB, and "
        "{} MB of mapped files in common; {} MB at most",
        captions, tokens, format_duration(wall), captions / wall, tokens / wall, percent(sums[3]),
        percent(sums[2]), percent(sums[4]), percent(sums[5] - sums[2] - sums[3] - sums[4]),
        most[1] >> 20, most[2] >> 20, most[0] >> 20);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }
  struct Note {
    Ledger& of;
    Part part;
    Clock::time_point begin;
    ~Note() { of.parts_[part] += since(begin); }
  };
  double elapsed() const { return since(begin_); }

  Clock::time_point begin_ = Clock::now();
  double parts_[3] = {};  // seconds
  std::int64_t captions_ = 0, tokens_ = 0;
};

/// The token ids of one shard's captions, laid end to end in the order in which they are encoded.
struct ShardTokens {
  std::vector<std::int64_t> samples, counts;  // by row
  std::vector<std::int64_t> order;            // the row of each caption
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> ids;
};

ShardTokens tokenize_shard(const TextEncoder& encoder, const Index& index, std::int64_t first,
                           std::int64_t rows, std::size_t max_tokens) {
  ShardTokens tokens;
  tokens.samples.resize(static_cast<std::size_t>(rows));
  std::iota(tokens.samples.begin(), tokens.samples.end(), first);
  std::vector<std::vector<std::int32_t>> ids;
  for (const std::int64_t sample : tokens.samples) {
    ids.push_back(encoder.tokenize(index[sample].caption, max_tokens));
    tokens.counts.push_back(std::ssize(ids.back()));
  }
  tokens.order = batch_order(tokens.counts);
  for (const std::int64_t row : tokens.order) {
    tokens.ids.insert(tokens.ids.end(), ids[row].begin(), ids[row].end());
    tokens.offsets.push_back(std::ssize(tokens.ids));
  }
  return tokens;
}

/// Rank 0 reads the weight files once more for their hash; the others are told.
std::string shared_weights_hash(const TextEncoder& encoder, Communicator& communicator) {
  const bool reads = communicator.rank() == 0;
  return communicator.all_gather_strings(reads ? encoder.model().weights_sha256() : "").front();
}

CachePlan make_plan(const TextCacheOptions& options, const TextEncoder& encoder, const Index& index,
                    const std::string& strategy, const std::string& weights_sha256) {
  CachePlan plan;
  CacheManifest& m = plan.manifest;
  m.kind = CacheKind::text;
  m.count = index.size();
  m.dim = encoder.width();
  m.shape = {encoder.width()};
  m.dtype = options.dtype;
  m.strategy = strategy;
  m.max_tokens = static_cast<std::int64_t>(encoder.max_tokens(options.max_tokens));
  m.attention = encoder.is_causal(options.attention) ? "causal" : "bidirectional";
  m.model = std::filesystem::weakly_canonical(options.encoder).filename().string();
  m.weights_sha256 = weights_sha256;
  m.tokenizer_sha256 = encoder.tokenizer().sha256();
  m.index_sha256 = index.sha256();
  plan.pooled_dim = options.pooled ? encoder.pooled_width() : 0;
  const auto longest_row =
      m.max_tokens * encoder.width() * static_cast<std::int64_t>(size_of(options.dtype));
  plan.rows_per_shard = options.rows_per_shard > 0 ? options.rows_per_shard
                                                   : default_rows_per_shard(m.count, longest_row);
  plan.details = fmt::format("compute={} pooled={}", name_of(options.compute), options.pooled);
  if (!(options.device == host_device)) plan.details += " device=cuda";
  return plan;
}

/// Captions [first, last) of the order in which a shard's are encoded.
struct CaptionRange {
  std::int64_t first, last;
};

/// Padded passes for one list of strategies, made anew where a shard needs others: of a killed run
/// not every cache lacks it. None on the host, whose ops cost no call, and none of a model that
/// reads its layers from disk.
class PassesOfJob {
 public:
  PassesOfJob(const TextCacheOptions& options, const TextEncoder& encoder, Exec& exec)
      : options_(options), encoder_(encoder), exec_(exec) {}

  PaddedPasses* of(const EncodeOptions& wanted) {
    if (exec_.device() == host_device || options_.stream) return nullptr;
    if (!passes_ || strategies_ != wanted.strategies) {
      strategies_ = wanted.strategies;
      passes_.reset();
      passes_.emplace(exec_, encoder_.model(), encoder_.is_causal(wanted.attention), wanted,
                      static_cast<std::int64_t>(encoder_.max_tokens(wanted.max_tokens)),
                      options_.graph);
    }
    return &*passes_;
  }

 private:
  const TextCacheOptions& options_;
  const TextEncoder& encoder_;
  Exec& exec_;
  std::vector<std::string> strategies_;
  std::optional<PaddedPasses> passes_;
};

/// Everything that building a shard needs.
struct TextJob {
  const TextCacheOptions& options;
  const TextEncoder& encoder;
  const Index& index;
  int ranks;
  Exec& exec;
  PassesOfJob& passes;
  Ledger& ledger;

  void build(std::int64_t shard, std::span<CacheBuilder* const> unfinished,
             const ReportRows& report) const;

 private:
  void write(const ShardTokens& tokens, CaptionRange batch, const Encoded& encoded,
             std::vector<ShardWriter>& writers) const;
};

/// Each caption to its row.
void TextJob::write(const ShardTokens& tokens, CaptionRange batch, const Encoded& encoded,
                    std::vector<ShardWriter>& writers) const {
  const auto* at = encoded.offsets.as<std::int64_t>();
  for (std::int64_t i = 0; i < batch.last - batch.first; ++i) {
    Tensor pooled;
    if (options.pooled)
      pooled = encoded.pooled.tensor().rows(i, i + 1).reshape({encoder.pooled_width()});
    for (std::size_t w = 0; w < writers.size(); ++w)
      writers[w].put(tokens.order[batch.first + i],
                     encoded.hidden[w].tensor().rows(at[i], at[i + 1]), pooled);
  }
}

std::vector<CaptionRange> cut_batches(const ShardTokens& tokens, std::int64_t room) {
  std::vector<CaptionRange> batches;
  for (std::int64_t first = 0, last = 0; first < std::ssize(tokens.order); first = last) {
    last = end_of_batch(tokens.offsets, first, room);
    batches.push_back({first, last});
  }
  return batches;
}

/// A thread takes a batch of its own; a model that streams its weights takes pass by pass.
void TextJob::build(std::int64_t shard, std::span<CacheBuilder* const> unfinished,
                    const ReportRows& report) const {
  const CachePlan& plan = unfinished.front()->plan();
  const ShardTokens tokens = ledger.timed(Ledger::tokenizer, [&] {
    return tokenize_shard(encoder, index, plan.first_row(shard), plan.rows_in(shard),
                          options.max_tokens);
  });
  EncodeOptions wanted{{}, options.pooled, false, options.attention, options.max_tokens};
  wanted.after_state = [&](std::int64_t state) {
    report(0, fmt::format("layer {}/{}", state, encoder.config().layers));
  };
  std::vector<ShardWriter> writers;
  for (const CacheBuilder* builder : unfinished) {
    wanted.strategies.push_back(builder->plan().manifest.strategy);
    ledger.timed(Ledger::files, [&] {
      writers.push_back(builder->begin_shard(shard, tokens.samples, tokens.counts));
    });
  }
  wanted.padded = passes.of(wanted);
  const auto encode = [&](Exec& exec, CaptionRange batch) {
    const std::int64_t begin = tokens.offsets[batch.first], end = tokens.offsets[batch.last];
    std::vector<std::int64_t> local(tokens.offsets.begin() + batch.first,
                                    tokens.offsets.begin() + batch.last + 1);
    for (std::int64_t& at : local) at -= begin;
    return encoder.encode_ids(exec, std::span(tokens.ids).subspan(begin, end - begin), local,
                              wanted);
  };
  const auto batches = cut_batches(tokens, options.stream ? options.pass_tokens : batch_tokens);
  std::mutex one_writes;
  const auto write_out = [&](const Exec& one, CaptionRange batch, const Encoded& encoded) {
    const std::lock_guard lock(one_writes);
    ledger.timed_within(Ledger::model, Ledger::files, exec.threads() / one.threads(),
                        [&] { write(tokens, batch, encoded, writers); });
    ledger.add(batch.last - batch.first, tokens.offsets[batch.last] - tokens.offsets[batch.first]);
    report(batch.last - batch.first, ledger.token_rate(ranks));
  };
  const auto encode_and_write = [&](Exec& one, std::int64_t index) {
    const CaptionRange batch = batches[static_cast<std::size_t>(index)];
    write_out(one, batch, encode(one, batch));
  };
  // The device computes a batch while the last one's rows are written.
  const auto one_ahead = [&] {
    wanted.may_be_under_way = true;
    Encoded last;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      Encoded next = encode(exec, batches[i]);
      if (i > 0) write_out(exec, batches[i - 1], last);
      last = std::move(next);
    }
    wanted.padded->finish();
    if (!batches.empty()) write_out(exec, batches.back(), last);
  };
  ledger.timed(Ledger::model, [&] {
    if (wanted.padded) return one_ahead();
    if (!options.stream) return exec.for_each_task(std::ssize(batches), encode_and_write);
    for (std::int64_t pass = 0; pass < std::ssize(batches); ++pass) encode_and_write(exec, pass);
  });
  ledger.timed(Ledger::files, [&] {
    for (ShardWriter& writer : writers) writer.finish();
  });
}

}  // namespace

bool cache_text(const TextCacheOptions& options, Communicator& communicator) {
  STRATA_CHECK(options.pass_tokens > 0);
  const Index index = Index::load(options.index);
  Exec exec(options.device);
  const TextEncoder encoder =
      TextEncoder::load(exec, options.encoder, options.compute, options.preset, options.stream);
  const std::string hash = shared_weights_hash(encoder, communicator);
  std::vector<CacheBuilder> builders;
  for (const std::string& strategy : options.strategies) {
    const Strategy parsed = Strategy::parse(strategy);
    if (parsed.kind == Strategy::Kind::layer) parsed.state_of(encoder.config().layers);
    builders.emplace_back(options.out + "/" + folder_of_strategy(strategy),
                          make_plan(options, encoder, index, strategy, hash));
  }
  Ledger ledger;
  PassesOfJob passes(options, encoder, exec);
  const TextJob job{options, encoder, index, communicator.size(), exec, passes, ledger};
  const bool built =
      build_shared(communicator, {builders, options.overwrite, "cache text", "captions"},
                   [&](std::int64_t shard, std::span<CacheBuilder* const> unfinished,
                       const ReportRows& report) { job.build(shard, unfinished, report); });
  for (const CacheBuilder& builder : builders)
    log::info("{}: {}{} captions, {} values a token", builder.dir(),
              built ? "" : "complete already: ", index.size(), encoder.width());
  if (!built) return false;
  const std::string summary = ledger.summary(communicator);
  log::info("cache text: {}", summary);
  return true;
}

}  // namespace strata
