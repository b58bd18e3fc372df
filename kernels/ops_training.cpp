// The public edge of diffusion and the optimizer: see ops.cpp.

#include <cmath>
#include <cstring>

#include "kernels/backend.hpp"
#include "kernels/op_check.hpp"

namespace strata::ops {

// --- diffusion
// --------------------------------------------------------------------------------------
void normals(Exec& exec, Tensor out, PhiloxKey key, Tensor at) {
  static_assert(sizeof(PhiloxCounter) == 2 * sizeof(std::int64_t));
  const Check check(exec, "normals");
  check.activation("out", out).is("out", out, DType::f32, out.shape);
  check.that(at && at.dtype == DType::i64 && at.shape == Shape{out.shape[0], 2} &&
                 (at.device == host_device || at.device == exec.device()),
             "counters {}", to_string(at.shape));
  exec.backend().normals(exec, out, key, at);
}

void normals(Exec& exec, Tensor out, PhiloxKey key, const PhiloxCounter* at) {
  normals(exec, out, key, view_of(reinterpret_cast<const std::int64_t*>(at), {out.shape[0], 2}));
}

void draw_posterior(Exec& exec, Tensor y, Tensor moments, Tensor noise) {
  const Check check(exec, "draw_posterior");
  check.activation("y", y, 2).is("y", y, DType::f32, y.shape);
  Shape both = y.shape;
  both[1] *= 2;
  check.is("moments", moments, DType::f32, both).is("noise", noise, DType::f32, y.shape);
  exec.backend().draw_posterior(exec, y, moments, noise);
}

void add_noise(Exec& exec, Tensor y, Tensor x, Tensor noise, Tensor a, Tensor s) {
  const Check check(exec, "add_noise");
  check.activation("y", y).is("x", x, DType::f32, y.shape).is("noise", noise, DType::f32, y.shape);
  check.is("a", a, DType::f32, {y.shape[0]}).is("s", s, DType::f32, {y.shape[0]});
  exec.backend().add_noise(exec, y, x, noise, a, s);
}

void mse_loss(Exec& exec, Tensor loss, Tensor dprediction, Tensor prediction, Tensor target,
              Tensor weight, float grad_scale) {
  const Check check(exec, "mse_loss");
  check.activation("prediction", prediction);
  check.is("target", target, DType::f32, prediction.shape);
  check.is("loss", loss, DType::f32, {prediction.shape[0]});
  check.optional("dprediction", dprediction, prediction.dtype, prediction.shape);
  if (dprediction) check.is("weight", weight, DType::f32, {prediction.shape[0]});
  exec.backend().mse_loss(exec, loss, dprediction, prediction, target, weight, grad_scale);
}

// --- optimizer
// --------------------------------------------------------------------------------------
namespace {
portable::UpdateCandidate candidate_of(const UpdateParams& update) {
  const AdamWParams& p = update.adamw;
  const auto steps = static_cast<double>(p.step);
  return {.step = {.take1 = static_cast<float>(1 - p.beta1),
                   .keep2 = static_cast<float>(p.beta2),
                   .take2 = static_cast<float>(1 - p.beta2),
                   .decay = static_cast<float>(1 - p.lr * p.weight_decay),
                   .size = static_cast<float>(p.lr / (1 - std::pow(p.beta1, steps))),
                   .inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(p.beta2, steps))),
                   .eps = static_cast<float>(p.eps),
                   .grad_scale = p.grad_scale},
          .ema_decay = update.ema_decay};
}
}  // namespace

void gradient_stats(Exec& exec, Tensor squares, Tensor non_finite, Tensor grad,
                    std::int64_t section) {
  const Check check(exec, "gradient_stats");
  check.is("grad", grad, DType::f32, grad.shape).that(section > 0, "sections of {}", section);
  check.is("squares", squares, DType::f64, {(grad.numel() + section - 1) / section});
  check.elements("non_finite", non_finite, 1)
      .is("non_finite", non_finite, DType::f64, non_finite.shape);
  exec.backend().gradient_stats(exec, squares, non_finite, grad, section);
}

void write_candidates(Tensor candidates, std::span<const UpdateParams> updates) {
  static_assert(sizeof(portable::UpdateCandidates) == candidates_bytes);
  const auto count = static_cast<std::int64_t>(updates.size());
  STRATA_CHECK(candidates.numel() == candidates_bytes && count >= 1 &&
               count <= portable::UpdateCandidates::most);
  portable::UpdateCandidates to{.count = count,
                                .first = updates[0].adamw.step - 1,
                                .grad_scale = updates[0].adamw.grad_scale,
                                .clip_norm = updates[0].clip_norm};
  for (std::int64_t i = 0; i < count; ++i) {
    STRATA_CHECK(updates[i].adamw.step == to.first + i + 1 && to.first >= 0, "step {}",
                 updates[i].adamw.step);
    to.of[i] = candidate_of(updates[i]);
  }
  std::memcpy(candidates.data, &to, sizeof to);
}

void decide_update(Exec& exec, Tensor decision, Tensor candidates, Tensor squares,
                   Tensor non_finite) {
  const Check check(exec, "decide_update");
  check.is("decision", decision, DType::u8, {decision_bytes});
  check.is("candidates", candidates, DType::u8, {candidates_bytes});
  check.is("squares", squares, DType::f64, {squares.numel()});
  check.elements("non_finite", non_finite, 1);
  exec.backend().decide_update(exec, decision, candidates, squares, non_finite);
}

UpdateOutcome read_decision(const std::byte* decision) {
  static_assert(sizeof(portable::UpdateDecision) == decision_bytes);
  portable::UpdateDecision from;
  std::memcpy(&from, decision, sizeof from);
  return {.applied = from.applied != 0,
          .grad_norm = from.grad_norm,
          .non_finite = static_cast<std::int64_t>(from.non_finite),
          .updates = from.updates};
}

Buffer decision_of(const UpdateParams& update) {
  portable::UpdateDecision decision{};
  if (update.adamw.step > 0) decision.update = candidate_of(update);
  decision.updates = update.adamw.step;
  decision.applied = update.adamw.step > 0;
  Buffer buffer(DType::u8, {decision_bytes});
  std::memcpy(buffer.tensor().data, &decision, sizeof decision);
  return buffer;
}

void adamw(Exec& exec, Tensor param, Tensor master, Tensor m, Tensor v, Tensor grad, Tensor ema,
           Tensor decision) {
  const Check check(exec, "adamw");
  const Shape shape{master.numel()};
  check.floating("param", param).elements("param", param, master.numel());
  check.is("master", master, DType::f32, shape).is("m", m, DType::f32, shape);
  check.is("v", v, DType::f32, shape).is("grad", grad, DType::f32, shape);
  check.optional("ema", ema, DType::f32, shape);
  check.is("decision", decision, DType::u8, {decision_bytes});
  exec.backend().adamw(exec, param, master, m, v, grad, ema, decision);
}

void accumulate(Exec& exec, Tensor a, Tensor b) {
  const Check check(exec, "accumulate");
  check.is("a", a, DType::f32, a.shape).floating("b", b).elements("b", b, a.numel());
  exec.backend().accumulate(exec, a, b);
}

}  // namespace strata::ops
