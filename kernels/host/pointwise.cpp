// Activations, gates, sums and conversions: one pass over memory each.

#include "kernels/host/backend.hpp"
#include "kernels/host/dispatch.hpp"
#include "kernels/portable/math.hpp"

namespace strata::host {

namespace {

/// y[i] = f(x[i]...), every input widened to float.
template <class To, class F, class... From>
void map(Exec& exec, To* y, std::int64_t count, F f, const From*... x) {
  for_elements(exec, count, [=](std::int64_t begin, std::int64_t end) {
    fill_row(y, begin, end, [=]([[maybe_unused]] std::int64_t i) { return f(to_float(x[i])...); });
  });
}

/// f(g) where g is the activation's scalar formula.
template <class F>
void with_formula(ops::Activation activation, F f) {
  switch (activation) {
    case ops::Activation::none:
      return f([](float x) { return x; });
    case ops::Activation::silu:
      return f([](float x) { return portable::silu(x); });
    case ops::Activation::gelu:
      return f([](float x) { return portable::gelu(x); });
    case ops::Activation::gelu_tanh:
      return f([](float x) { return portable::gelu_tanh(x); });
    case ops::Activation::quick_gelu:
      return f([](float x) { return portable::quick_gelu(x); });
    case ops::Activation::relu:
      return f([](float x) { return x > 0.0f ? x : 0.0f; });
  }
}

}  // namespace

void HostBackend::silu(Exec& exec, Tensor y, Tensor x) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    map(
        exec, y.as<T>(), x.numel(), [](float v) { return portable::silu(v); }, x.as<T>());
  });
}

void HostBackend::silu_backward(Exec& exec, Tensor dx, Tensor dy, Tensor x) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    map(
        exec, dx.as<T>(), x.numel(), [](float g, float v) { return g * portable::silu_slope(v); },
        dy.as<T>(), x.as<T>());
  });
}

void HostBackend::geglu(Exec& exec, Tensor y, Tensor h) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = y.shape[-1];
    const Rows<T> to{y.as<T>(), width}, from{h.as<T>(), 2 * width};
    for_rows(exec, rows_of(y), 4 * width, [=](std::int64_t row) {
      const T* value = from[row];
      const T* gate = value + width;
      fill_row(to[row], 0, width, [=](std::int64_t i) {
        return to_float(value[i]) * portable::gelu(to_float(gate[i]));
      });
    });
  });
}

void HostBackend::geglu_backward(Exec& exec, Tensor dh, Tensor dy, Tensor h) {
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = dy.shape[-1];
    const Rows<T> gradient{dy.as<T>(), width}, from{h.as<T>(), 2 * width},
        to{dh.as<T>(), 2 * width};
    for_rows(exec, rows_of(dy), 4 * width, [=](std::int64_t row) {
      const T* value = from[row];
      const T* gate = value + width;
      const T* g = gradient[row];
      T* dvalue = to[row];
      T* dgate = dvalue + width;
      for_pieces(0, width, [=](std::int64_t first, std::int64_t count) {
        float of_value[row_piece], of_gate[row_piece];
#pragma omp simd
        for (std::int64_t j = 0; j < count; ++j) {
          const std::int64_t i = first + j;
          const auto gelu = portable::gelu_and_slope(to_float(gate[i]));
          of_value[j] = to_float(g[i]) * gelu.value;
          of_gate[j] = to_float(g[i]) * to_float(value[i]) * gelu.slope;
        }
        store_row(dvalue + first, of_value, count);
        store_row(dgate + first, of_gate, count);
      });
    });
  });
}

void HostBackend::activation(Exec& exec, Tensor y, Tensor x, ops::Activation activation) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_formula(activation, [&](auto g) { map(exec, y.as<T>(), y.numel(), g, x.as<T>()); });
  });
}

void HostBackend::gated(Exec& exec, Tensor y, Tensor gate, Tensor up, ops::Activation activation) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_formula(activation, [&](auto g) {
      const auto product = [g](float gate_value, float value) { return g(gate_value) * value; };
      map(exec, y.as<T>(), y.numel(), product, gate.as<T>(), up.as<T>());
    });
  });
}

void HostBackend::add(Exec& exec, Tensor y, Tensor a, Tensor b) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    map(
        exec, y.as<T>(), y.numel(), [](float p, float q) { return p + q; }, a.as<T>(), b.as<T>());
  });
}

void HostBackend::add_per_sample(Exec& exec, Tensor y, Tensor x, Tensor bias) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const std::int64_t width = x.shape[-1], rows = rows_of(x);
    if (rows == 0) return;
    const std::int64_t pixels = rows / x.shape[0];
    const Rows<T> to{y.as<T>(), width}, from{x.as<T>(), width}, shift{bias.as<T>(), width};
    for_rows(exec, rows, width, [=](std::int64_t row) {
      const T* b = shift[row / pixels];
      const T* source = from[row];
      fill_row(to[row], 0, width,
               [=](std::int64_t c) { return to_float(source[c]) + to_float(b[c]); });
    });
  });
}

void HostBackend::add_per_sample_backward(Exec& exec, Tensor dbias, Tensor dy) {
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr std::int64_t piece = 64;
    const std::int64_t width = dy.shape[-1], batch = dy.shape[0];
    const std::int64_t pixels = batch == 0 ? 0 : rows_of(dy) / batch;
    const std::int64_t pieces = (width + piece - 1) / piece;
    const Rows<T> to{dbias.as<T>(), width}, from{dy.as<T>(), width};
    for_rows(exec, batch * pieces, pixels * piece, [=](std::int64_t task) {
      const std::int64_t b = task / pieces, begin = task % pieces * piece;
      const std::int64_t count = std::min(piece, width - begin);
      float sum[piece] = {};
      for (std::int64_t p = 0; p < pixels; ++p) {
        const T* row = from[b * pixels + p] + begin;
        for (std::int64_t c = 0; c < count; ++c) sum[c] += to_float(row[c]);
      }
      store_row(to[b] + begin, sum, count);
    });
  });
}

void HostBackend::cast(Exec& exec, Tensor y, Tensor x) {
  with_type(y.dtype, [&](auto to) {
    using To = decltype(to);
    To* target = y.as<To>();
    if (x.dtype == DType::f16) {
      const auto* half = reinterpret_cast<const std::uint16_t*>(x.data);
      for_elements(exec, y.numel(), [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          target[i] = from_float<To>(portable::half_to_float(half[i]));
      });
      return;
    }
    with_type(x.dtype, [&](auto from) {
      map(
          exec, target, y.numel(), [](float v) { return v; }, x.as<decltype(from)>());
    });
  });
}

void HostBackend::fill(Exec& exec, Tensor y, float value) {
  with_type(y.dtype, [&](auto type) {
    map(exec, y.as<decltype(type)>(), y.numel(), [value] { return value; });
  });
}

void HostBackend::scale(Exec& exec, Tensor y, Tensor x, float factor) {
  with_type(y.dtype, [&](auto to) {
    with_type(x.dtype, [&](auto from) {
      map(
          exec, y.as<decltype(to)>(), y.numel(), [factor](float v) { return factor * v; },
          x.as<decltype(from)>());
    });
  });
}

}  // namespace strata::host
