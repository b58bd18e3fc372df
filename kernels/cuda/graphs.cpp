#include "kernels/cuda/graphs.hpp"

#include <cudnn_frontend.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>
#include <unordered_map>

#include "kernels/backend.hpp"
#include "kernels/cuda/plan_cache.hpp"

namespace strata::cuda {

namespace {

namespace fe = cudnn_frontend;

using Extents = std::vector<std::int64_t>;

enum Name : std::int64_t {
  name_x = 1,
  name_w,
  name_y,
  name_bias,
  name_old_w,
  name_q,
  name_k,
  name_v,
  name_o,
  name_lse,
  name_dq,
  name_dk,
  name_dv,
  name_dout,
  name_q_lengths,
  name_k_lengths,
  name_q_offsets,
  name_k_offsets,
  name_lse_offsets,
};

fe::DataType_t vendor_type(DType dtype) {
  return dtype == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::FLOAT;
}

void check(fe::error_t status, const char* call, const std::string& what) {
  if (status.is_good()) return;
  std::string text = status.get_message();
  std::replace(text.begin(), text.end(), '\n', ' ');
  fail(Exit::internal, "cuDNN: {} of {}: {}", call, what, text);
}

class Handle {
 public:
  Handle() {
    const cudnnStatus_t status = cudnnCreate(&handle_);
    if (status != CUDNN_STATUS_SUCCESS)
      fail(Exit::internal, "cudnnCreate: {}", cudnnGetErrorString(status));
  }
  ~Handle() { cudnnDestroy(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator cudnnHandle_t() const { return handle_; }

 private:
  cudnnHandle_t handle_ = nullptr;
};

/// What a plan is made for: the words that tell it from others, and its description.
struct Key {
  std::array<std::int64_t, 13> words{};
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over words
    for (const std::int64_t word : key.words)
      hash = (hash ^ static_cast<std::uint64_t>(word)) * 0x100000001b3u;
    return hash;
  }
};

/// The first word tells kinds of graphs apart.
constexpr std::int64_t attention_word = 100;

Key key_of(ConvKind kind, const ConvShape& s) {
  return {{static_cast<std::int64_t>(kind), static_cast<std::int64_t>(s.dtype), s.batch, s.height,
           s.width, s.channels, s.outputs, s.rows, s.columns, s.stride, s.pad_rows, s.pad_columns,
           s.bias}};
}

Key key_of(const AttentionShape& s) {
  return {{attention_word, s.batch, s.heads, s.key_heads, s.width, s.queries, s.keys, s.ragged,
           s.causal, std::bit_cast<std::int32_t>(s.scale), s.backward, s.keeps_lse}};
}

std::string describe(ConvKind kind, const ConvShape& s) {
  constexpr const char* names[] = {"conv2d", "conv2d input gradient", "conv2d weight gradient"};
  return fmt::format("{} ({}, {}, {}, {}) {} with ({}, {}, {}, {}) stride {}",
                     names[static_cast<int>(kind)], s.batch, s.height, s.width, s.channels,
                     name_of(s.dtype), s.outputs, s.rows, s.columns, s.channels, s.stride);
}

std::string describe(const AttentionShape& s) {
  return fmt::format("attention{} of {} sequences, {} heads, {} key heads, width {}, {} x {}{}{}",
                     s.backward ? " backward" : "", s.batch, s.heads, s.key_heads, s.width,
                     s.queries, s.keys, s.ragged ? ", ragged" : "", s.causal ? ", causal" : "");
}

/// Attributes of a tensor that cuDNN sees as (B,C,H,W) and that lies channels last.
fe::graph::Tensor_attributes image(Name name, DType dtype, const Extents& extents) {
  const std::int64_t c = extents[1], h = extents[2], w = extents[3];
  return fe::graph::Tensor_attributes()
      .set_uid(name)
      .set_dim(extents)
      .set_stride({h * w * c, 1, w * c, c})
      .set_data_type(vendor_type(dtype));
}

/// Engines that add in an order of their own, or in fewer digits than f32, are not for us.
std::vector<fe::NumericalNote_t> unwanted(DType dtype) {
  std::vector<fe::NumericalNote_t> notes{fe::NumericalNote_t::NONDETERMINISTIC,
                                         fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION};
  if (dtype == DType::f32) {  // f32 means f32: not TF32
    notes.push_back(fe::NumericalNote_t::TENSOR_CORE);
    notes.push_back(fe::NumericalNote_t::DOWN_CONVERT_INPUTS);
  }
  return notes;
}

template <class Attributes>
Attributes geometry(const ConvShape& s) {
  return Attributes()
      .set_padding({s.pad_rows, s.pad_columns})
      .set_stride({s.stride, s.stride})
      .set_dilation({1, 1});
}

std::unique_ptr<fe::graph::Graph> empty_graph(DType dtype) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(vendor_type(dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

std::unique_ptr<fe::graph::Graph> convolution(ConvKind kind, const ConvShape& s) {
  auto graph = empty_graph(s.dtype);
  const Extents x_extents{s.batch, s.channels, s.height, s.width};
  const Extents w_extents{s.outputs, s.channels, s.rows, s.columns};
  const Extents y_extents{s.batch, s.outputs, s.out_height(), s.out_width()};
  const auto add = fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD);
  const auto shaped = [](const auto& tensor, const fe::graph::Tensor_attributes& layout) {
    tensor->set_dim(layout.get_dim()).set_stride(layout.get_stride());
    return tensor;
  };
  const auto result = [&](const auto& tensor, Name name, DType dtype, const Extents& extents) {
    shaped(tensor, image(name, dtype, extents))->set_uid(name).set_output(true);
    tensor->set_data_type(vendor_type(dtype));
  };
  const auto x = [&] { return graph->tensor(image(name_x, s.dtype, x_extents)); };
  const auto y = [&] { return graph->tensor(image(name_y, s.dtype, y_extents)); };
  const auto w = [&] { return graph->tensor(image(name_w, s.dtype, w_extents)); };
  if (kind == ConvKind::input_gradient) {
    const auto dx = graph->conv_dgrad(y(), w(), geometry<fe::graph::Conv_dgrad_attributes>(s));
    result(dx, name_x, s.dtype, x_extents);
  } else if (kind == ConvKind::weight_gradient) {
    const auto dw = graph->conv_wgrad(y(), x(), geometry<fe::graph::Conv_wgrad_attributes>(s));
    const auto layout = image(name_old_w, DType::f32, w_extents);
    const auto sum = graph->pointwise(shaped(dw, layout), graph->tensor(layout), add);
    result(sum, name_w, DType::f32, w_extents);
  } else {
    auto sum = graph->conv_fprop(x(), w(), geometry<fe::graph::Conv_fprop_attributes>(s));
    if (s.bias) {
      const auto bias = graph->tensor(image(name_bias, s.dtype, {1, s.outputs, 1, 1}));
      sum = graph->pointwise(shaped(sum, image(name_y, s.dtype, y_extents)), bias, add);
    }
    result(sum, name_y, s.dtype, y_extents);
  }
  return graph;
}

/// The tensors of an attention graph: cuDNN sees (batch, heads, rows, width), memory is ours.
class AttentionGraph {
 public:
  explicit AttentionGraph(const AttentionShape& shape)
      : s_(shape), graph_(empty_graph(DType::bf16)) {
    if (!s_.ragged) return;
    q_lengths_ = counts(name_q_lengths, s_.batch, fe::DataType_t::INT32);
    k_lengths_ = counts(name_k_lengths, s_.batch, fe::DataType_t::INT32);
    q_offsets_ = counts(name_q_offsets, s_.batch + 1, fe::DataType_t::INT64);
    k_offsets_ = counts(name_k_offsets, s_.batch + 1, fe::DataType_t::INT64);
    if (s_.backward || s_.keeps_lse)
      lse_offsets_ = counts(name_lse_offsets, s_.batch + 1, fe::DataType_t::INT64);
  }

  std::unique_ptr<fe::graph::Graph> forward() {
    auto how = masked(fe::graph::SDPA_attributes());
    how.set_name("attention").set_generate_stats(s_.keeps_lse);
    auto [o, lse] = graph_->sdpa(input(query(name_q)), input(key(name_k)), input(key(name_v)), how);
    output(o, query(name_o));
    if (s_.keeps_lse) output(lse, statistics());
    return std::move(graph_);
  }

  std::unique_ptr<fe::graph::Graph> backward() {
    auto how = masked(fe::graph::SDPA_backward_attributes());
    how.set_name("attention_backward").set_deterministic_algorithm(true);
    if (s_.ragged)
      how.set_max_total_seq_len_q(s_.batch * s_.queries)
          .set_max_total_seq_len_kv(s_.batch * s_.keys);
    auto [dq, dk, dv] = graph_->sdpa_backward(input(query(name_q)), input(key(name_k)),
                                              input(key(name_v)), input(query(name_o)),
                                              input(query(name_dout)), input(statistics()), how);
    output(dq, query(name_dq));
    output(dk, key(name_dk));
    output(dv, key(name_dv));
    return std::move(graph_);
  }

 private:
  using Handle = std::shared_ptr<fe::graph::Tensor_attributes>;
  struct Layout {
    fe::graph::Tensor_attributes attributes;
    Handle offsets;
  };

  Handle counts(Name name, std::int64_t count, fe::DataType_t type) {
    return graph_->tensor(fe::graph::Tensor_attributes()
                              .set_uid(name)
                              .set_dim({count, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(type));
  }
  Layout rows(Name name, std::int64_t heads, std::int64_t count, const Handle& offsets) const {
    const std::int64_t d = s_.width;
    return {fe::graph::Tensor_attributes()
                .set_uid(name)
                .set_dim({s_.batch, heads, count, d})
                .set_stride({count * heads * d, d, heads * d, 1})
                .set_data_type(fe::DataType_t::BFLOAT16),
            offsets};
  }
  Layout query(Name name) const { return rows(name, s_.heads, s_.queries, q_offsets_); }
  Layout key(Name name) const { return rows(name, s_.key_heads, s_.keys, k_offsets_); }
  Layout statistics() const {
    const std::int64_t n = s_.heads, count = s_.queries;
    const Extents packed{n * count, count, 1, 1}, by_row{n * count, 1, n, 1};
    return {fe::graph::Tensor_attributes()
                .set_uid(name_lse)
                .set_dim({s_.batch, n, count, 1})
                .set_stride(s_.ragged ? by_row : packed)
                .set_data_type(fe::DataType_t::FLOAT),
            lse_offsets_};
  }
  Handle input(const Layout& layout) {
    const Handle tensor = graph_->tensor(layout.attributes);
    if (layout.offsets) tensor->set_ragged_offset(layout.offsets);
    return tensor;
  }
  static void output(const Handle& tensor, const Layout& layout) {
    const auto& a = layout.attributes;
    tensor->set_uid(a.get_uid()).set_dim(a.get_dim()).set_stride(a.get_stride());
    tensor->set_data_type(a.get_data_type()).set_output(true);
    if (layout.offsets) tensor->set_ragged_offset(layout.offsets);
  }
  template <class Attributes>
  Attributes masked(Attributes how) const {
    how.set_attn_scale(s_.scale).set_causal_mask(s_.causal);
    if (s_.ragged) how.set_padding_mask(true).set_seq_len_q(q_lengths_).set_seq_len_kv(k_lengths_);
    return how;
  }

  const AttentionShape& s_;
  std::unique_ptr<fe::graph::Graph> graph_;
  Handle q_lengths_, k_lengths_, q_offsets_, k_offsets_, lse_offsets_;
};

}  // namespace

/// Seconds on a device, by events that know the time.
class Stopwatch {
 public:
  Stopwatch() {
    STRATA_CUDA(cudaEventCreate(&start_));
    STRATA_CUDA(cudaEventCreate(&stop_));
  }
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  /// The best of three after one that does not count.
  template <class F>
  float best(cudaStream_t stream, F run) {
    float least = std::numeric_limits<float>::max();
    for (int i = 0; i < 4; ++i) {
      STRATA_CUDA(cudaEventRecord(start_, stream));
      run();
      STRATA_CUDA(cudaEventRecord(stop_, stream));
      STRATA_CUDA(cudaEventSynchronize(stop_));
      float milliseconds = 0;
      STRATA_CUDA(cudaEventElapsedTime(&milliseconds, start_, stop_));
      if (i > 0) least = std::min(least, milliseconds);
    }
    return least;
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// A graph to be run: its key, how to make it, and what on.
struct Graphs::Call {
  Key key;
  std::string what;
  std::vector<fe::NumericalNote_t> unwanted;
  std::unordered_map<std::int64_t, void*> pointers;
  std::function<std::unique_ptr<fe::graph::Graph>()> make;
  /// The tensor that is read and written, and its bytes: measuring must leave it alone.
  std::int64_t in_place = 0;
  std::size_t in_place_bytes = 0;
};

class Graphs::Impl {
 public:
  void run(Exec& exec, cudaStream_t stream, Call call, const std::optional<std::string>& folder) {
    const cudnnStatus_t status = cudnnSetStream(handle_, stream);
    if (status != CUDNN_STATUS_SUCCESS)
      fail(Exit::internal, "cudnnSetStream: {}", cudnnGetErrorString(status));
    auto found = plans_.find(call.key);
    if (found == plans_.end())
      found = plans_.emplace(call.key, folder ? measured(exec, stream, call, *folder) : first(call))
                  .first;
    fe::graph::Graph& graph = *found->second;
    std::int64_t bytes = 0;
    check(graph.get_workspace_size(bytes), "get_workspace_size", call.what);
    const ArenaScope scope(exec.arena);
    check(graph.execute(handle_, call.pointers, workspace(exec, bytes)), "execute", call.what);
  }

 private:
  using Graph = std::unique_ptr<fe::graph::Graph>;
  static constexpr std::int64_t most_measured = 4;
  static constexpr std::int64_t most_workspace = std::int64_t{256} << 20;

  Graph described(const Call& call) {
    Graph graph = call.make();
    check(graph->validate(), "validate", call.what);
    check(graph->build_operation_graph(handle_), "build_operation_graph", call.what);
    return graph;
  }
  /// With cuDNN's candidates, the best by its own estimate first.
  Graph with_candidates(const Call& call) {
    Graph graph = described(call);
    check(graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}),
          "create_execution_plans", call.what);
    graph->deselect_numeric_notes(call.unwanted);
    return graph;
  }
  Graph first(const Call& call) {
    Graph graph = with_candidates(call);
    check(graph->check_support(), "check_support", call.what);
    check(graph->build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), "build_plans", call.what);
    return graph;
  }
  /// None where this cuDNN does not make such an engine.
  Graph of_choice(const Call& call, const EngineChoice& choice) {
    std::unordered_map<fe::KnobType_t, std::int64_t> knobs;
    for (const auto& [knob, value] : choice.knobs)
      knobs.emplace(static_cast<fe::KnobType_t>(knob), value);
    Graph graph = described(call);
    const bool made = graph->create_execution_plan(choice.engine, knobs).is_good() &&
                      graph->build_plan_at_index(0).is_good();
    return made ? std::move(graph) : nullptr;
  }

  Graph measured(Exec& exec, cudaStream_t stream, const Call& call, const std::string& folder) {
    forbid_while_recording("measure engines");
    if (!cache_) cache_.emplace(folder, device_name(exec.device()), cudnnGetVersion());
    if (const auto choice = cache_->find(call.key.words))
      if (Graph graph = of_choice(call, *choice)) return graph;
    Graph graph = with_candidates(call);
    graph->deselect_workspace_greater_than(most_workspace);
    const std::int64_t fastest = fastest_of(exec, stream, call, *graph);
    if (fastest < 0) return first(call);
    EngineChoice mine;
    std::unordered_map<fe::KnobType_t, std::int64_t> knobs;
    check(graph->get_engine_and_knobs_at_index(fastest, mine.engine, knobs),
          "get_engine_and_knobs_at_index", call.what);
    for (const auto& [knob, value] : knobs) mine.knobs[static_cast<std::int64_t>(knob)] = value;
    const EngineChoice holds = cache_->add(call.key.words, mine);
    if (!(holds == mine))
      if (Graph theirs = of_choice(call, holds)) return theirs;
    check(graph->build_plan_at_index(fastest), "build_plan_at_index", call.what);
    return graph;
  }

  /// Its index; -1 where none of the first few runs.
  std::int64_t fastest_of(Exec& exec, cudaStream_t stream, const Call& call,
                          fe::graph::Graph& graph) {
    const ArenaScope scope(exec.arena);
    auto pointers = call.pointers;
    if (call.in_place_bytes > 0) {
      const Tensor aside = exec.empty(DType::u8, {static_cast<std::int64_t>(call.in_place_bytes)});
      STRATA_CUDA(cudaMemsetAsync(aside.data, 0, aside.bytes(), stream));
      for (auto& [name, pointer] : pointers)
        if (pointer == call.pointers.at(call.in_place)) pointer = aside.data;
    }
    std::int64_t fastest = -1, tried = 0;
    float least = std::numeric_limits<float>::max();
    for (std::int64_t i = 0; i < graph.get_execution_plan_count() && tried < most_measured; ++i) {
      std::int64_t bytes = 0;
      if (!graph.build_plan_at_index(i).is_good() ||
          !graph.get_workspace_size_plan_at_index(i, bytes).is_good() || bytes > most_workspace)
        continue;
      ++tried;
      const ArenaScope of_plan(exec.arena);
      std::byte* scratch = workspace(exec, bytes);
      bool runs = true;
      const float time = stopwatch_.best(stream, [&] {
        runs = runs && graph.execute_plan_at_index(handle_, pointers, scratch, i).is_good();
      });
      if (!runs || time >= least) continue;
      least = time;
      fastest = i;
    }
    return fastest;
  }

  static std::string device_name(Device device) {
    cudaDeviceProp properties{};
    STRATA_CUDA(cudaGetDeviceProperties(&properties, device.index));
    return properties.name;
  }

  Handle handle_;
  Stopwatch stopwatch_;
  std::optional<PlanCache> cache_;
  std::unordered_map<Key, Graph, KeyHash> plans_;
};

Graphs::Graphs() = default;
Graphs::~Graphs() = default;

/// cuDNN's handle takes long to make, and many an Exec needs none.
Graphs::Impl& Graphs::impl() {
  if (!impl_) impl_ = std::make_unique<Impl>();
  return *impl_;
}

bool adds_weight_gradients(DType dtype, std::int64_t channels, std::int64_t outputs) {
  return dtype == DType::bf16 && channels % 4 == 0 && outputs % 4 == 0;
}

void Graphs::conv(Exec& exec, cudaStream_t stream, ConvKind kind, const ConvShape& shape,
                  const ConvData& data) {
  Call call{.key = key_of(kind, shape),
            .what = describe(kind, shape),
            .unwanted = unwanted(shape.dtype),
            .pointers = {{name_x, data.x}, {name_y, data.y}, {name_w, data.w}},
            .make = [&] { return convolution(kind, shape); }};
  if (shape.bias) call.pointers.emplace(name_bias, data.bias);
  if (kind == ConvKind::weight_gradient) {
    call.pointers.emplace(name_old_w, data.w);
    call.in_place = name_w;
    call.in_place_bytes =
        static_cast<std::size_t>(shape.outputs * shape.rows * shape.columns * shape.channels) *
        sizeof(float);
  }
  impl().run(exec, stream, std::move(call), folder_);
}

void Graphs::attention(Exec& exec, cudaStream_t stream, const AttentionShape& shape,
                       const AttentionData& data) {
  Call call{.key = key_of(shape),
            .what = describe(shape),
            .unwanted = {},
            .pointers = {{name_q, data.q}, {name_k, data.k}, {name_v, data.v}, {name_o, data.o}},
            .make = [&] {
              AttentionGraph graph(shape);
              return shape.backward ? graph.backward() : graph.forward();
            }};
  const auto add = [&](Name name, void* pointer) {
    if (pointer) call.pointers.emplace(name, pointer);
  };
  add(name_lse, data.lse);
  add(name_dq, data.dq);
  add(name_dk, data.dk);
  add(name_dv, data.dv);
  add(name_dout, data.dout);
  add(name_q_lengths, data.q_lengths);
  add(name_k_lengths, data.k_lengths);
  add(name_q_offsets, data.q_offsets);
  add(name_k_offsets, data.k_offsets);
  add(name_lse_offsets, data.lse_offsets);
  impl().run(exec, stream, std::move(call), folder_);
}

}  // namespace strata::cuda
