#include "precompute/cache_text.hpp"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "core/error.hpp"
#include "core/exec.hpp"
#include "core/log.hpp"
#include "data/index.hpp"
#include "precompute/shared_build.hpp"

namespace strata {

namespace {

/// The token ids of one shard's captions, laid end to end.
struct ShardTokens {
  std::vector<std::int64_t> samples, counts, offsets{0};
  std::vector<std::int32_t> ids;
};

ShardTokens tokenize_shard(const TextEncoder& encoder, const Index& index, std::int64_t first,
                           std::int64_t rows, std::size_t max_tokens) {
  ShardTokens tokens;
  tokens.samples.resize(static_cast<std::size_t>(rows));
  std::iota(tokens.samples.begin(), tokens.samples.end(), first);
  for (std::int64_t sample : tokens.samples) {
    const auto ids = encoder.tokenize(index[sample].caption, max_tokens);
    tokens.ids.insert(tokens.ids.end(), ids.begin(), ids.end());
    tokens.counts.push_back(static_cast<std::int64_t>(ids.size()));
    tokens.offsets.push_back(static_cast<std::int64_t>(tokens.ids.size()));
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
  return plan;
}

/// Encodes a shard batch by batch and appends its rows to each cache that still lacks it.
void build_shard(Exec& exec, const TextEncoder& encoder, const TextCacheOptions& options,
                 const ShardTokens& tokens, std::int64_t shard,
                 std::span<CacheBuilder* const> unfinished,
                 const std::function<void(std::int64_t)>& progress) {
  EncodeOptions wanted{{}, options.pooled, false, options.attention, options.max_tokens};
  std::vector<ShardWriter> writers;
  for (const CacheBuilder* builder : unfinished) {
    wanted.strategies.push_back(builder->plan().manifest.strategy);
    writers.push_back(builder->begin_shard(shard, tokens.samples, tokens.counts));
  }
  const auto rows = static_cast<std::int64_t>(tokens.samples.size());
  for (std::int64_t first = 0, last = 0; first < rows; first = last) {
    last = end_of_batch(tokens.offsets, first);
    const std::int64_t begin = tokens.offsets[first], end = tokens.offsets[last];
    std::vector<std::int64_t> local(tokens.offsets.begin() + first,
                                    tokens.offsets.begin() + last + 1);
    for (std::int64_t& at : local) at -= begin;
    const Encoded encoded = encoder.encode_ids(
        exec, std::span(tokens.ids).subspan(begin, static_cast<std::size_t>(end - begin)), local,
        wanted);
    for (std::size_t w = 0; w < writers.size(); ++w)
      for (std::int64_t row = 0; row < last - first; ++row) {
        const Tensor pooled =
            options.pooled
                ? encoded.pooled.tensor().rows(row, row + 1).reshape({encoder.pooled_width()})
                : Tensor{};
        writers[w].append(encoded.hidden[w].tensor().rows(local[row], local[row + 1]), pooled);
      }
    progress(last - first);
  }
  for (ShardWriter& writer : writers) writer.finish();
}

}  // namespace

bool cache_text(const TextCacheOptions& options, Communicator& communicator) {
  const Index index = Index::load(options.index);
  Exec exec;
  const TextEncoder encoder =
      TextEncoder::load(exec, options.encoder, options.compute, options.preset);
  const std::string hash = shared_weights_hash(encoder, communicator);
  std::vector<CacheBuilder> builders;
  for (const std::string& strategy : options.strategies) {
    const Strategy parsed = Strategy::parse(strategy);
    if (parsed.kind == Strategy::Kind::layer) parsed.state_of(encoder.config().layers);
    builders.emplace_back(options.out + "/" + folder_of_strategy(strategy),
                          make_plan(options, encoder, index, strategy, hash));
  }
  const SharedBuild job{builders, options.overwrite, "cache text", "captions"};
  const bool built = build_shared(
      communicator, job,
      [&](std::int64_t shard, std::span<CacheBuilder* const> unfinished, const auto& progress) {
        const CachePlan& plan = builders.front().plan();
        const ShardTokens tokens = tokenize_shard(encoder, index, plan.first_row(shard),
                                                  plan.rows_in(shard), options.max_tokens);
        build_shard(exec, encoder, options, tokens, shard, unfinished, progress);
      });
  for (const CacheBuilder& builder : builders)
    log::info("{}: {}{} captions, {} values a token", builder.dir(),
              built ? "" : "complete already: ", index.size(), encoder.width());
  return built;
}

}  // namespace strata
