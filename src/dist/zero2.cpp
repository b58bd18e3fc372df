#include "dist/zero2.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cmath>
#include <exception>
#include <optional>

#include "core/feed.hpp"
#include "core/spans.hpp"
#include "dist/gathers.hpp"
#include "dist/worker.hpp"
#include "dist/zero2_plan.hpp"

namespace strata {

class Zero2::Impl {
 public:
  Impl(Exec& exec, Communicator& comm, const ParameterTable& table, Zero2Options options);

  void set_parameters(Tensor flat);
  void gather(Tensor flat, Tensor shard);
  void begin_step(int microbatches);
  Tensor gradient(ParamId id);
  void ready(ParamId id);
  void end_microbatch();
  void skip_microbatch();
  void plan_update(std::span<const UpdateOptions> candidates);
  void continue_after(std::int64_t updates);
  enum class Gathered { by_bucket, later };
  void update_shard(Gathered gathered);
  void gather_updated();
  Arrivals& arrivals() { return *gathers_; }
  void parameters_changed();
  Weights complete_weights();
  /// For the end: other ranks wait for what this one has not gathered yet.
  void finish_gathers() noexcept;
  StepStats stats_of(const ops::UpdateOutcome& outcome);

  Exec& exec;
  Communicator& comm;
  const ParameterTable& table;
  const Zero2Options options;
  const Sharding sharding;
  const bool in_place;
  Tensor parameters;
  Buffer master, m, v, ema;
  std::vector<Buffer> levels;  // partial sums of the gradient shard
  Buffer decision;
  std::function<void(IndexRange)> before_change = [](IndexRange) {};
  int peak_in_flight = 0;

 private:
  enum class Slot { unused, open, sent };
  struct BucketState {
    bool is_open = false;  // in this microbatch
    int slot = -1;         // unless in place
    int missing = 0;       // parameters that are not ready yet in this microbatch
  };

  void open(int bucket, ParamId id);
  int take_slot(ParamId id);
  Tensor gradients_of(int bucket) const;
  void send(int bucket);
  void reduce(const Bucket& bucket, int microbatch, Tensor gradients);
  Tensor slot_view(int slot, const Bucket& bucket) const;
  static Tensor local(const Buffer& shard, const Bucket& bucket);
  int sum_levels();
  void measure(Tensor gradient);
  void apply(Tensor gradient, Gathered gathered);
  Tensor squares() const { return stats_.tensor().rows(0, stats_.tensor().numel() - 1); }
  Tensor non_finite() const {
    return stats_.tensor().rows(stats_.tensor().numel() - 1, stats_.tensor().numel());
  }
  /// Between exec and the Exec of collectives, where those are not done when they return.
  void hand_over() {
    if (order_) order_->wait_for(exec);
  }
  void take_back() {
    if (order_) exec.wait_for(*order_);
  }
  void allocate_levels(int count);

  int microbatches_ = 0, microbatch_ = 0;
  std::vector<BucketState> states_;
  std::vector<char> is_ready_;
  std::array<Slot, most_in_flight> slots_{};  // `sent` -> `unused` by the worker, under its mutex
  std::array<bool, most_in_flight> was_sent_{};  // in this microbatch
  std::vector<Buffer> slot_buffers_;
  std::vector<std::unique_ptr<Moment>> slots_left_;  // reduced, in the order of collectives
  Buffer parameter_memory_, incoming_, wire_;
  Buffer stats_;  // sums of squares by bucket and section, then elements that are not finite
  std::optional<Feed> candidates_;
  Exec* order_;
  double collective_seconds_ = 0, waited_before_ = 0;
  int reduced_ = 0,
      overlapped_ = 0;     // reduced_: by the worker, in this microbatch and earlier ones
  bool is_stale_ = false;  // other ranks' parameters are those before the last update
  std::unique_ptr<Communicator> channel_;  // the worker's own; absent when there is no thread
  std::optional<Exec> channel_exec_;
  std::optional<Gathers> gathers_;
  Worker worker_;  // last: its thread uses all of the above
};

Zero2::Impl::Impl(Exec& exec_, Communicator& comm_, const ParameterTable& table_,
                  Zero2Options options_)
    : exec(exec_),
      comm(comm_),
      table(table_),
      options(options_),
      sharding(table_, bucket_elements(options_), comm_.rank(), comm_.size()),
      in_place(adds_in_place(options_, comm_.size())),
      states_(sharding.buckets().size()),
      is_ready_(table_.size(), 0),
      order_(comm_.order()),
      worker_(!order_ && options_.overlap && comm_.concurrent() && comm_.size() > 1) {
  STRATA_CHECK(options.compute == DType::f32 || options.compute == DType::bf16);
  STRATA_CHECK(options.wire == DType::f32 || options.wire == DType::bf16);
  for (int id = 0; id < table.size(); ++id)
    STRATA_CHECK(table[id].trainable, "{} is frozen and does not belong here", table[id].name);
  const Device device = exec.device();
  const std::int64_t n = sharding.local_numel();
  const std::int64_t lead = table.lead(options.compute);
  parameter_memory_ = Buffer(options.compute, {lead + table.numel()}, device);
  parameters = parameter_memory_.tensor().rows(lead, lead + table.numel());
  for (Buffer* state : {&master, &m, &v}) *state = Buffer(DType::f32, {n}, device);
  if (options.ema) ema = Buffer(DType::f32, {n}, device);
  for (int i = 0; i < slots_for(sharding, options, comm.size()); ++i) {
    slot_buffers_.emplace_back(DType::f32, Shape{sharding.largest_bucket()}, device);
    slots_left_.push_back(exec.make_moment());
  }
  const auto sections = static_cast<std::int64_t>(sharding.buckets().size()) * sharding.sections();
  stats_ = Buffer(DType::f64, {sections + 1}, device);
  decision = Buffer(DType::u8, {ops::decision_bytes}, device);
  candidates_.emplace(exec, static_cast<std::size_t>(ops::candidates_bytes));
  continue_after(0);
  incoming_ = Buffer(DType::f32, {incoming_elements(sharding, options, comm.size())}, device);
  if (options.wire != DType::f32) wire_ = Buffer(options.wire, {sharding.largest_bucket()}, device);
  if (worker_.threaded()) {
    channel_ = comm.duplicate();
    channel_exec_.emplace(device, 1);
  }
  gathers_.emplace(exec, channel_ ? *channel_ : comm, sharding, worker_, options.overlap);
  allocate_levels(1);
}

void Zero2::Impl::allocate_levels(int count) {
  while (static_cast<int>(levels.size()) < count)
    levels.emplace_back(DType::f32, Shape{sharding.local_numel()}, exec.device());
}

Tensor Zero2::Impl::local(const Buffer& shard, const Bucket& bucket) {
  const Tensor all = shard;
  if (!all) return {};
  return all.rows(bucket.mine.local, bucket.mine.local + bucket.mine.flat.size());
}

Tensor Zero2::Impl::slot_view(int slot, const Bucket& bucket) const {
  return slot_buffers_[slot].tensor().rows(0, bucket.flat.size());
}

// --- parameters ---------------------------------------------------------------------------------

void Zero2::Impl::set_parameters(Tensor flat) {
  STRATA_CHECK(flat.numel() == table.numel() && flat.dtype == DType::f32);
  gathers_->needs_all();
  Buffer there;
  if (!(flat.device == exec.device())) {
    there = Buffer(flat.dtype, flat.shape, exec.device());
    memory::copy(there.tensor().data, exec.device(), flat.data, flat.device, flat.bytes());
    flat = there;
  }
  ops::cast(exec, parameters, flat);
  for (const ShardPiece& piece : sharding.pieces()) {
    const Tensor from = flat.rows(piece.flat.begin, piece.flat.end);
    for (const Buffer* to : {&master, &ema}) {
      if (!to->tensor()) continue;
      const Tensor part = to->tensor().rows(piece.local, piece.local + piece.flat.size());
      memory::copy(part.data, part.device, from.data, from.device, part.bytes());
    }
  }
  ops::fill(exec, m, 0.0f);
  ops::fill(exec, v, 0.0f);
  parameters_changed();
}

/// All of them, on every rank.
void Zero2::Impl::parameters_changed() {
  is_stale_ = false;
  exec.weights_changed();
}

void Zero2::Impl::gather(Tensor flat, Tensor shard) {
  STRATA_CHECK(shard && flat.numel() == table.numel());
  gathers_->needs_all();  // flat may be the parameters
  for (int b = 0; b < static_cast<int>(sharding.buckets().size()); ++b) {
    const ShardPiece& mine = sharding.buckets()[b].mine;
    if (mine.flat.size() > 0)
      ops::cast(exec, flat.rows(mine.flat.begin, mine.flat.end),
                shard.rows(mine.local, mine.local + mine.flat.size()));
    gathers_->post(flat, b);
  }
  gathers_->finish_posted();
}

Weights Zero2::Impl::complete_weights() {
  if (is_stale_) gather_updated();
  gathers_->await_all();
  return Weights(table, parameters);
}

void Zero2::Impl::finish_gathers() noexcept {
  try {
    worker_.drain();
  } catch (...) {  // NOLINT(bugprone-empty-catch): the next collective call would have thrown it
  }
}

// --- gradients ----------------------------------------------------------------------------------

void Zero2::Impl::begin_step(int microbatches) {
  STRATA_CHECK(microbatches > 0);
  allocate_levels(levels_for(options.reduction, microbatches));
  microbatches_ = microbatches;
  microbatch_ = 0;
  overlapped_ = 0;
  reduced_ = 0;
  for (std::size_t b = 0; b < states_.size(); ++b)
    states_[b] = {.missing = sharding.buckets()[b].parameters};
  std::fill(is_ready_.begin(), is_ready_.end(), 0);
}

/// Where this microbatch's gradients of an open bucket are written.
Tensor Zero2::Impl::gradients_of(int b) const {
  const Bucket& bucket = sharding.buckets()[b];
  return in_place ? local(levels[0], bucket) : slot_view(states_[b].slot, bucket);
}

void Zero2::Impl::open(int bucket, ParamId id) {
  STRATA_CHECK(microbatch_ < microbatches_, "gradient of {} outside a step", table[id].name);
  states_[bucket].is_open = true;
  if (!in_place) states_[bucket].slot = take_slot(id);
  if (!in_place || microbatch_ == 0) ops::fill(exec, gradients_of(bucket), 0.0f);
}

int Zero2::Impl::take_slot(ParamId id) {
  const int count = static_cast<int>(slot_buffers_.size());
  const auto find = [&](Slot wanted) {
    return static_cast<int>(std::find(slots_.begin(), slots_.begin() + count, wanted) -
                            slots_.begin());
  };
  int slot = count, in_flight = 0;
  worker_.wait_until([&] {
    slot = find(Slot::unused);
    return slot < count || find(Slot::sent) == count;
  });
  STRATA_CHECK(slot < count, "{} buckets of gradients are open and {} needs one more", count,
               table[id].name);
  {
    const std::lock_guard lock(worker_.mutex());
    slots_[slot] = Slot::open;
    in_flight = static_cast<int>(
        std::count_if(slots_.begin(), slots_.end(), [](Slot s) { return s != Slot::unused; }));
  }
  peak_in_flight = std::max(peak_in_flight, in_flight);
  if (order_ && was_sent_[slot]) exec.wait_for(*slots_left_[slot]);
  return slot;
}

Tensor Zero2::Impl::gradient(ParamId id) {
  if (id == no_param) return {};
  const int b = sharding.bucket_of(id);
  STRATA_CHECK(!is_ready_[id], "{} is written after it was ready", table[id].name);
  if (!states_[b].is_open) open(b, id);
  const Parameter& p = table[id];
  const std::int64_t at = p.offset - sharding.buckets()[b].flat.begin;
  return gradients_of(b).rows(at, at + p.numel()).reshape(p.memory_shape);
}

void Zero2::Impl::ready(ParamId id) {
  if (id == no_param) return;
  STRATA_CHECK(!is_ready_[id], "{} is ready twice in a microbatch", table[id].name);
  const int b = sharding.bucket_of(id);
  if (!states_[b].is_open) open(b, id);
  is_ready_[id] = 1;
  if (--states_[b].missing == 0 && !in_place) send(b);
}

void Zero2::Impl::send(int b) {
  const int slot = states_[b].slot;
  {
    const std::lock_guard lock(worker_.mutex());
    slots_[slot] = Slot::sent;
  }
  hand_over();  // the gradients written so far
  worker_.post([this, b, slot, microbatch = microbatch_] {
    const spans::Span span("reduce-scatter", "communication", b);
    const Bucket& bucket = sharding.buckets()[b];
    reduce(bucket, microbatch, slot_view(slot, bucket));
    if (order_) order_->mark(*slots_left_[slot]);
    const std::lock_guard lock(worker_.mutex());
    slots_[slot] = Slot::unused;
    ++reduced_;
  });
  was_sent_[slot] = true;
  if (!options.overlap) take_back();
}

/// On the worker: sums one bucket of one microbatch over the ranks and adds this rank's part to the
/// gradient shard.
void Zero2::Impl::reduce(const Bucket& bucket, int microbatch, Tensor gradients) {
  Communicator& channel = channel_ ? *channel_ : comm;
  Exec& on = order_ ? *order_ : channel_exec_ ? *channel_exec_ : exec;
  if (options.wire != DType::f32) {
    const Tensor rounded = wire_.tensor().rows(0, gradients.numel());
    ops::cast(on, rounded, gradients);
    gradients = rounded;
  }
  // The first node of a sum goes straight to its place; see `Reduction` for what follows.
  const bool tree = options.reduction == Reduction::tree;
  const bool first = tree ? microbatch % 2 == 0 : microbatch == 0;
  const std::int64_t n = bucket.mine.flat.size();
  const Tensor node = first ? local(levels[0], bucket) : incoming_.tensor().rows(0, n);
  channel.reduce_scatter_sum(node, gradients, bucket.part);
  if (first || n == 0) return;
  if (!tree) return ops::accumulate(on, local(levels[0], bucket), node);
  // A binary counter: level k holds the sum of 2^k lanes-of-all-ranks while bit k is set.
  const int free_level = std::countr_one(static_cast<unsigned>(microbatch));
  for (int k = 0; k < free_level; ++k) ops::accumulate(on, node, local(levels[k], bucket));
  const Tensor to = local(levels[free_level], bucket);
  on.copy(to.data, node.data, to.bytes());
}

void Zero2::Impl::end_microbatch() {
  STRATA_CHECK(microbatch_ < microbatches_, "more microbatches than begin_step said");
  for (int id = 0; id < table.size(); ++id)
    STRATA_CHECK(is_ready_[id], "the gradient of {} was never ready", table[id].name);
  {
    const std::lock_guard lock(worker_.mutex());
    const int sent_before = microbatch_ * static_cast<int>(states_.size());
    overlapped_ += worker_.threaded() ? std::max(0, reduced_ - sent_before) : 0;
  }
  ++microbatch_;
  for (std::size_t b = 0; b < states_.size(); ++b)
    states_[b] = {.missing = sharding.buckets()[b].parameters};
  std::fill(is_ready_.begin(), is_ready_.end(), 0);
  // A recording that begins or ends here has all its ops in it, those of collectives among them.
  gathers_->needs_all();
  hand_over();
  take_back();
  was_sent_.fill(false);
}

void Zero2::Impl::skip_microbatch() {
  STRATA_CHECK(microbatch_ < microbatches_, "more microbatches than begin_step said");
  if (microbatch_ == 0) is_stale_ = false;
  ++microbatch_;
}

// --- update -------------------------------------------------------------------------------------

/// Leaves the sum of all microbatches in the level returned.
int Zero2::Impl::sum_levels() {
  if (options.reduction == Reduction::ordered || sharding.local_numel() == 0) return 0;
  int sum = -1;
  for (int k = 0; microbatches_ >> k; ++k) {
    if (!(microbatches_ >> k & 1)) continue;
    if (sum >= 0) ops::accumulate(exec, levels[k], levels[sum]);
    sum = k;
  }
  return sum;
}

/// Sums of squares by section and the non-finite count, agreed by all ranks. A section is whole on
/// one rank, so the norm's bits do not depend on the number of ranks (of those that divide 64).
void Zero2::Impl::measure(Tensor gradient) {
  Tensor bits = stats_;
  bits.dtype = DType::f32;
  bits.shape = {2 * stats_.tensor().numel()};
  ops::fill(exec, bits, 0.0f);
  for (std::size_t b = 0; b < sharding.buckets().size(); ++b) {
    const Bucket& bucket = sharding.buckets()[b];
    const IndexRange& mine = bucket.mine.flat;
    const std::int64_t first = static_cast<std::int64_t>(b) * sharding.sections() +
                               (mine.begin - bucket.flat.begin) / bucket.section;
    const std::int64_t count = (mine.size() + bucket.section - 1) / bucket.section;
    ops::gradient_stats(exec, squares().rows(first, first + count), non_finite(),
                        gradient.rows(bucket.mine.local, bucket.mine.local + mine.size()),
                        bucket.section);
  }
  hand_over();
  const spans::Span span("agree on the norm", "wait");
  const auto start = std::chrono::steady_clock::now();
  comm.all_reduce_tensor(stats_);
  collective_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  take_back();
}

/// Forward needs the buckets in the reverse of the order in which backward completes them.
void Zero2::Impl::apply(Tensor gradient, Gathered gathered) {
  for (int b = static_cast<int>(sharding.buckets().size()); b-- > 0;) {
    const Bucket& bucket = sharding.buckets()[b];
    const ShardPiece& mine = bucket.mine;
    if (mine.flat.size() > 0) {
      before_change({mine.local, mine.local + mine.flat.size()});
      ops::adamw(exec, parameters.rows(mine.flat.begin, mine.flat.end), local(master, bucket),
                 local(m, bucket), local(v, bucket),
                 gradient.rows(mine.local, mine.local + mine.flat.size()), local(ema, bucket),
                 decision);
    }
    if (gathered == Gathered::by_bucket) gathers_->begin(parameters, b);
  }
  exec.weights_changed();
}

void Zero2::Impl::plan_update(std::span<const UpdateOptions> candidates) {
  const Tensor next{candidates_->begin(), DType::u8, host_device, {ops::candidates_bytes}};
  ops::write_candidates(next, candidates);
  candidates_->send(next.bytes());
  is_stale_ = true;
}

void Zero2::Impl::continue_after(std::int64_t updates) {
  UpdateOptions none;
  none.adamw.step = updates;
  const Buffer start = ops::decision_of(none);
  memory::copy(decision.tensor().data, exec.device(), start.tensor().data, host_device,
               start.tensor().bytes());
}

void Zero2::Impl::update_shard(Gathered gathered) {
  STRATA_CHECK(microbatches_ > 0 && microbatch_ == microbatches_, "{} of {} microbatches are done",
               microbatch_, microbatches_);
  worker_.drain();
  const Tensor gradient = levels[sum_levels()];
  measure(gradient);
  const Tensor candidates{candidates_->memory(), DType::u8, exec.device(), {ops::candidates_bytes}};
  ops::decide_update(exec, decision, candidates, squares(), non_finite());
  apply(gradient, gathered);
  if (gathered == Gathered::by_bucket) is_stale_ = false;
  microbatches_ = 0;
}

void Zero2::Impl::gather_updated() {
  is_stale_ = false;
  for (int b = static_cast<int>(sharding.buckets().size()); b-- > 0;)
    gathers_->begin(parameters, b);
}

StepStats Zero2::Impl::stats_of(const ops::UpdateOutcome& outcome) {
  const double waited = worker_.wait_seconds() + collective_seconds_;
  const StepStats stats{.applied = outcome.applied,
                        .grad_norm = outcome.grad_norm,
                        .non_finite = outcome.non_finite,
                        .wait_seconds = waited - waited_before_,
                        .overlapped_buckets = overlapped_};
  waited_before_ = waited;
  return stats;
}

// --- Zero2 --------------------------------------------------------------------------------------

Zero2::Zero2(Exec& exec, Communicator& comm, const ParameterTable& table, Zero2Options options)
    : impl_(std::make_unique<Impl>(exec, comm, table, options)),
      exceptions_(std::uncaught_exceptions()) {}

Zero2::~Zero2() {
  // An exception is passing and the job is about to be aborted. The thread may be in a collective
  // that the other ranks will never join: it is left behind with all that it uses.
  if (std::uncaught_exceptions() > exceptions_ && impl_->comm.size() > 1)
    static_cast<void>(impl_.release());
  else
    impl_->finish_gathers();
}

Zero2Memory Zero2::plan(const ParameterTable& table, const Zero2Options& options, int rank,
                        int ranks, int microbatches) {
  const Sharding sharding(table, bucket_elements(options), rank, ranks);
  return memory_of(sharding, table, options, ranks, levels_for(options.reduction, microbatches));
}

Weights Zero2::weights() {
  return impl_->complete_weights();
}
Weights Zero2::arriving_weights() {
  return Weights(impl_->table, impl_->parameters, &impl_->arrivals());
}
void Zero2::set_parameters(Tensor flat) {
  impl_->set_parameters(flat);
}

void Zero2::restore_parameters() {
  impl_->gather(impl_->parameters, impl_->master);
  impl_->parameters_changed();
}

ShardState Zero2::state() {
  return {impl_->sharding.pieces(), impl_->master, impl_->m, impl_->v, impl_->ema};
}

void Zero2::gather_master(Tensor flat) {
  impl_->gather(flat, impl_->master);
}
void Zero2::gather_ema(Tensor flat) {
  impl_->gather(flat, impl_->ema);
}
void Zero2::begin_step(int microbatches) {
  impl_->begin_step(microbatches);
}
Tensor Zero2::operator[](ParamId id) {
  return impl_->gradient(id);
}

void Zero2::ready(std::span<const ParamId> ids) {
  for (const ParamId id : ids) impl_->ready(id);
}

void Zero2::end_microbatch() {
  impl_->end_microbatch();
}
void Zero2::skip_microbatch() {
  impl_->skip_microbatch();
}

StepStats Zero2::update(const UpdateOptions& options) {
  impl_->plan_update({&options, 1});
  update();
  Readback back(impl_->exec, ops::decision_bytes, 1);
  back.take(0, 0, impl_->decision);
  back.close(0);
  impl_->comm.await(back.moment(0));
  return impl_->stats_of(ops::read_decision(back.at(0)));
}

void Zero2::plan_update(std::span<const UpdateOptions> candidates) {
  impl_->plan_update(candidates);
}
void Zero2::before_change(std::function<void(IndexRange)> call) {
  impl_->before_change = std::move(call);
}
void Zero2::continue_after(std::int64_t updates) {
  impl_->continue_after(updates);
}
void Zero2::update() {
  impl_->update_shard(Impl::Gathered::by_bucket);
}
void Zero2::update_shard() {
  impl_->update_shard(Impl::Gathered::later);
}
void Zero2::gather_updated() {
  impl_->gather_updated();
}
Tensor Zero2::decision() const {
  return impl_->decision;
}
StepStats Zero2::stats_of(const ops::UpdateOutcome& outcome) {
  return impl_->stats_of(outcome);
}

Zero2Memory Zero2::memory() const {
  return memory_of(impl_->sharding, impl_->table, impl_->options, impl_->comm.size(),
                   static_cast<int>(impl_->levels.size()));
}

const Sharding& Zero2::sharding() const {
  return impl_->sharding;
}
int Zero2::peak_buckets_in_flight() const {
  return impl_->peak_in_flight;
}

}  // namespace strata
