// Activations, gates, sums and conversions: one pass over memory each, 16 bytes a thread.

#include "kernels/cuda/backend.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layout.hpp"
#include "kernels/portable/math.hpp"

namespace strata::cuda {

namespace {

constexpr int threads = 256;

/// y[i] = f(x[i]...), every input widened to float; elements [first, first + count) by groups of n.
template <int n, class To, class F, class... From>
__global__ void __launch_bounds__(threads)
    map_kernel(To* y, std::int64_t groups, F f, const From*... x) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const auto apply = [&](const Vec<From, n>&... from) {
    Vec<To, n> to;
#pragma unroll
    for (int i = 0; i < n; ++i) to.v[i] = from_float<To>(f(to_float(from.v[i])...));
    return to;
  };
  apply(Vec<From, n>::load(x + group * n)...).store(y + group * n);
}

template <class T>
bool aligned(const T* data) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
}

/// The whole arrays: wide groups where addresses allow, the rest one by one.
template <class To, class F, class... From>
void map(cudaStream_t stream, To* y, std::int64_t count, F f, const From*... x) {
  constexpr int n = std::max({wide<To>, wide<From>...});
  const std::int64_t groups = aligned(y) && (aligned(x) && ...) ? count / n : 0;
  if (groups > 0) {
    map_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream>>>(y, groups, f, x...);
    STRATA_LAUNCHED("map");
  }
  const std::int64_t done = groups * n, rest = count - done;
  if (rest == 0) return;
  map_kernel<1>
      <<<blocks(ceil_div(rest, threads)), threads, 0, stream>>>(y + done, rest, f, (x + done)...);
  STRATA_LAUNCHED("map");
}

struct Identity {
  __device__ float operator()(float x) const { return x; }
};
struct Constant {
  float value;
  __device__ float operator()() const { return value; }
};
struct Scale {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Silu {
  __device__ float operator()(float x) const { return portable::silu(x); }
};
struct SiluBackward {
  __device__ float operator()(float g, float x) const { return g * portable::silu_slope(x); }
};
struct Gelu {
  __device__ float operator()(float x) const { return portable::gelu(x); }
};
struct GeluTanh {
  __device__ float operator()(float x) const { return portable::gelu_tanh(x); }
};
struct QuickGelu {
  __device__ float operator()(float x) const { return portable::quick_gelu(x); }
};
struct Relu {
  __device__ float operator()(float x) const { return x > 0.0f ? x : 0.0f; }
};
template <class G>
struct Gated {
  __device__ float operator()(float gate, float up) const { return G{}(gate)*up; }
};

/// f(g) where g is the activation's scalar formula.
template <class F>
void with_formula(ops::Activation activation, F f) {
  switch (activation) {
    case ops::Activation::none:
      return f(Identity{});
    case ops::Activation::silu:
      return f(Silu{});
    case ops::Activation::gelu:
      return f(Gelu{});
    case ops::Activation::gelu_tanh:
      return f(GeluTanh{});
    case ops::Activation::quick_gelu:
      return f(QuickGelu{});
    case ops::Activation::relu:
      return f(Relu{});
  }
}

/// y (M,F) = value gelu(gate), h (M,2F) = [value | gate]; a group is n elements of a row of y.
template <int n, class T>
__global__ void __launch_bounds__(threads)
    geglu_kernel(T* y, const T* h, std::int64_t groups, unsigned a_row) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const std::int64_t row = group / a_row;
  const T* from = h + (group + row * a_row) * n;
  const auto value = Vec<T, n>::load(from), gate = Vec<T, n>::load(from + a_row * n);
  Vec<T, n> to;
#pragma unroll
  for (int i = 0; i < n; ++i)
    to.v[i] = from_float<T>(to_float(value.v[i]) * portable::gelu(to_float(gate.v[i])));
  to.store(y + group * n);
}

template <int n, class T>
__global__ void __launch_bounds__(threads)
    geglu_backward_kernel(T* dh, const T* dy, const T* h, std::int64_t groups, unsigned a_row) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const std::int64_t at = (group + group / a_row * a_row) * n;
  const auto value = Vec<T, n>::load(h + at), gate = Vec<T, n>::load(h + at + a_row * n);
  const auto gradient = Vec<T, n>::load(dy + group * n);
  Vec<T, n> dvalue, dgate;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const auto gelu = portable::gelu_and_slope(to_float(gate.v[i]));
    const float g = to_float(gradient.v[i]);
    dvalue.v[i] = from_float<T>(g * gelu.value);
    dgate.v[i] = from_float<T>(g * to_float(value.v[i]) * gelu.slope);
  }
  dvalue.store(dh + at);
  dgate.store(dh + at + a_row * n);
}

/// y = x + bias of the sample, for groups of n channels.
template <int n, class T>
__global__ void __launch_bounds__(threads)
    add_per_sample_kernel(T* y, const T* x, const T* bias, std::int64_t groups, unsigned a_row,
                          std::int64_t a_sample) {
  const std::int64_t group = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (group >= groups) return;
  const std::int64_t sample = group / a_sample, column = group % a_row;
  const auto from = Vec<T, n>::load(x + group * n);
  const auto shift = Vec<T, n>::load(bias + (sample * a_row + column) * n);
  Vec<T, n> to;
#pragma unroll
  for (int i = 0; i < n; ++i) to.v[i] = from_float<T>(to_float(from.v[i]) + to_float(shift.v[i]));
  to.store(y + group * n);
}

/// from_half: IEEE half as stored to T.
template <class T>
__global__ void __launch_bounds__(threads)
    from_half(T* y, const std::uint16_t* x, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) y[i] = from_float<T>(portable::half_to_float(x[i]));
}

}  // namespace

void convert(cudaStream_t stream, const Tensor& to, const Tensor& from) {
  with_type(to.dtype, [&](auto to_type) {
    with_type(from.dtype, [&](auto from_type) {
      map(stream, to.as<decltype(to_type)>(), to.numel(), Identity{},
          from.as<decltype(from_type)>());
    });
  });
}

void CudaBackend::silu(Exec&, Tensor y, Tensor x) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    map(stream(), y.as<T>(), x.numel(), Silu{}, x.as<T>());
  });
}

void CudaBackend::silu_backward(Exec&, Tensor dx, Tensor dy, Tensor x) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    map(stream(), dx.as<T>(), x.numel(), SiluBackward{}, dy.as<T>(), x.as<T>());
  });
}

void CudaBackend::geglu(Exec&, Tensor y, Tensor h) {
  if (y.numel() == 0) return;
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(y.shape[-1], y, h), [&](auto n) {
      const std::int64_t groups = y.numel() / n;
      geglu_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream()>>>(
          y.as<T>(), h.as<T>(), groups, static_cast<unsigned>(y.shape[-1] / n));
      STRATA_LAUNCHED("geglu");
    });
  });
}

void CudaBackend::geglu_backward(Exec&, Tensor dh, Tensor dy, Tensor h) {
  if (dy.numel() == 0) return;
  with_type(dy.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(dy.shape[-1], dh, dy, h), [&](auto n) {
      const std::int64_t groups = dy.numel() / n;
      geglu_backward_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream()>>>(
          dh.as<T>(), dy.as<T>(), h.as<T>(), groups, static_cast<unsigned>(dy.shape[-1] / n));
      STRATA_LAUNCHED("geglu_backward");
    });
  });
}

void CudaBackend::activation(Exec&, Tensor y, Tensor x, ops::Activation activation) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_formula(activation, [&](auto g) { map(stream(), y.as<T>(), y.numel(), g, x.as<T>()); });
  });
}

void CudaBackend::gated(Exec&, Tensor y, Tensor gate, Tensor up, ops::Activation activation) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    with_formula(activation, [&](auto g) {
      map(stream(), y.as<T>(), y.numel(), Gated<decltype(g)>{}, gate.as<T>(), up.as<T>());
    });
  });
}

void CudaBackend::add(Exec&, Tensor y, Tensor a, Tensor b) {
  with_type(y.dtype, [&](auto type) {
    using T = decltype(type);
    map(stream(), y.as<T>(), y.numel(), Sum{}, a.as<T>(), b.as<T>());
  });
}

void CudaBackend::add_per_sample(Exec&, Tensor y, Tensor x, Tensor bias) {
  if (y.numel() == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_width<T>(is_wide(x.shape[-1], y, x, bias), [&](auto n) {
      const std::int64_t groups = x.numel() / n;
      add_per_sample_kernel<n><<<blocks(ceil_div(groups, threads)), threads, 0, stream()>>>(
          y.as<T>(), x.as<T>(), bias.as<T>(), groups, static_cast<unsigned>(x.shape[-1] / n),
          groups / x.shape[0]);
      STRATA_LAUNCHED("add_per_sample");
    });
  });
}

void CudaBackend::cast(Exec&, Tensor y, Tensor x) {
  const std::int64_t count = y.numel();
  if (count == 0) return;
  with_type(y.dtype, [&](auto to) {
    using To = decltype(to);
    if (x.dtype == DType::f16) {
      from_half<<<blocks(ceil_div(count, threads)), threads, 0, stream()>>>(
          y.as<To>(), reinterpret_cast<const std::uint16_t*>(x.data), count);
      STRATA_LAUNCHED("from_half");
      return;
    }
    convert(stream(), y, x);
  });
}

void CudaBackend::fill(Exec&, Tensor y, float value) {
  with_type(y.dtype,
            [&](auto type) { map(stream(), y.as<decltype(type)>(), y.numel(), Constant{value}); });
}

void CudaBackend::scale(Exec&, Tensor y, Tensor x, float factor) {
  with_type(y.dtype, [&](auto to) {
    with_type(x.dtype, [&](auto from) {
      map(stream(), y.as<decltype(to)>(), y.numel(), Scale{factor}, x.as<decltype(from)>());
    });
  });
}

void CudaBackend::accumulate(Exec&, Tensor a, Tensor b) {
  with_type(b.dtype, [&](auto type) {
    map(stream(), a.as<float>(), a.numel(), Sum{}, a.as<float>(), b.as<decltype(type)>());
  });
}

}  // namespace strata::cuda
