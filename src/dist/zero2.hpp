#pragma once
// ZeRO stage 2: every rank holds all parameters in the compute dtype, but only its part of the f32
// gradients, master weights and AdamW moments. One rank runs the same code, but where nothing is to
// be rounded on the way its gradients are written where their sum belongs.
//
//   Zero2 zero(exec, comm, unet.parameters(), options);
//   zero.set_parameters(flat_f32);
//   each step:
//     zero.begin_step(microbatches);
//     each microbatch: unet.forward(exec, zero.arriving_weights(), ...);
//                      unet.backward(..., zero, ...);
//                      zero.end_microbatch();
//     StepStats stats = zero.update({.adamw = ...});

#include <functional>
#include <memory>

#include "dist/communicator.hpp"
#include "dist/sharding.hpp"
#include "kernels/ops.hpp"
#include "model/parameters.hpp"

namespace strata {

enum class Reduction {
  ordered,  // microbatches are added one after the other
  /// One fixed binary tree over all lanes, lane = microbatch * ranks + rank: bitwise equal
  /// gradients for 1, 2, 4, ... ranks when lane L holds the same samples whatever the number of
  /// ranks.
  tree,
};

struct Zero2Options {
  DType compute = DType::f32;              // of the parameters: f32 or bf16
  DType wire = DType::f32;                 // of gradients between ranks: f32 or bf16
  std::int64_t bucket_bytes = 25'000'000;  // of parameters, at least, a bucket
  Reduction reduction = Reduction::ordered;
  /// Buckets are reduced while backward goes on, and gathered while the next forward does.
  bool overlap = true;
  bool ema = false;
};

using UpdateOptions = ops::UpdateParams;  // adamw.grad_scale multiplies the summed gradient

struct StepStats {
  bool applied = false;         // false: the gradient was not finite and nothing was changed
  double grad_norm = 0;         // of the whole scaled gradient, before clipping
  std::int64_t non_finite = 0;  // elements, over all ranks
  double wait_seconds = 0;      // this rank's compute waited for communication (comm_s)
  int overlapped_buckets = 0;   // bucket reductions done before their microbatch's backward ended
};

/// What this rank holds, in bytes.
struct Zero2Memory {
  std::int64_t parameters = 0;       // compute dtype, all of them
  std::int64_t gradient_shard = 0;   // f32; with Reduction::tree one a level of the tree
  std::int64_t optimizer_state = 0;  // master, m, v (f32)
  std::int64_t ema = 0;
  std::int64_t bucket_buffers = 0;  // gradients in flight and their wire copies
  std::int64_t total() const {
    return parameters + gradient_shard + optimizer_state + ema + bucket_buffers;
  }
};

/// This rank's part of the optimizer state: f32 tensors (local_numel), laid out by `pieces`.
struct ShardState {
  std::vector<ShardPiece> pieces;
  Tensor master, m, v, ema;  // ema absent when not kept
};

/// Collective: every rank makes the same calls in the same order.
class Zero2 : public Gradients {
 public:
  Zero2(Exec& exec, Communicator& comm, const ParameterTable& table, Zero2Options options);
  ~Zero2() override;

  /// Bytes a rank without building anything (`train --dry-run`); microbatches matters for the tree.
  static Zero2Memory plan(const ParameterTable& table, const Zero2Options& options, int rank,
                          int ranks, int microbatches);

  /// The current parameters, flat in the table's order, valid as long as this object. Returns when
  /// all of them are here.
  Weights weights();
  /// The same at once: ops wait for the bucket of the parameter that they read. For one thread.
  Weights arriving_weights();
  /// flat (P) f32, memory layout, the same on every rank: sets parameters and master; m = v = 0;
  /// ema = master.
  void set_parameters(Tensor flat);
  /// Parameters := master of all ranks (after `state()` was loaded from a checkpoint).
  void restore_parameters();
  ShardState state();
  /// flat (P), f32 or bf16, on every rank := the master weights or the EMA of all ranks.
  void gather_master(Tensor flat);
  void gather_ema(Tensor flat);

  /// microbatches: how many this rank will run in this step, the same on every rank.
  void begin_step(int microbatches);
  /// Opens the parameter's bucket, zeroed at the first use in a microbatch. At most three buckets
  /// are in flight: waits for one to be sent, Error(70) when all three are still being written.
  Tensor operator[](ParamId id) override;
  /// Each parameter once a microbatch; a bucket that is complete is sent.
  void ready(std::span<const ParamId> ids) override;
  /// Error(70) naming a parameter that was not made ready.
  void end_microbatch();
  /// A microbatch whose passes were played from a recording, in the first one gather_updated.
  void skip_microbatch();
  /// Norm and non-finite count agreed by all ranks, then AdamW on the shard, from the bucket that
  /// forward needs first to the one that it needs last; the all-gather of each begins as soon as it
  /// is updated. A gradient that is not finite changes nothing: stats.applied is false.
  StepStats update(const UpdateOptions& options);

  /// Called before elements [begin, end) of `state()` may change; not where an update is played
  /// from a recording.
  void before_change(std::function<void(IndexRange)> call);

  // The same in parts, so that a device need not be waited for:
  /// Every candidate that update() may turn out to make; see ops::write_candidates.
  void plan_update(std::span<const UpdateOptions> candidates);
  /// How many updates the weights have seen, when they do not come from this object.
  void continue_after(std::int64_t updates);
  void update();
  // An update that is recorded. What it changed is gathered while the next passes go on, so the
  // all-gathers are in their recording: nothing in one waits for what is outside of it.
  /// All of it but the all-gathers.
  void update_shard();
  /// The all-gathers, before a step's first microbatch; one that was recorded with them needs them
  /// whenever it is played.
  void gather_updated();
  /// What the last update decided (ops::read_decision), where the tensors lie.
  Tensor decision() const;
  StepStats stats_of(const ops::UpdateOutcome& outcome);

  Zero2Memory memory() const;
  const Sharding& sharding() const;
  /// Most bucket buffers that were ever in use at once (never more than three).
  int peak_buckets_in_flight() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
  int exceptions_;
};

}  // namespace strata
