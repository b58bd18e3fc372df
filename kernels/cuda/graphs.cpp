#include "kernels/cuda/graphs.hpp"

#include <cudnn_frontend.h>

#include <unordered_map>

namespace strata::cuda {

namespace {

namespace fe = cudnn_frontend;

using Extents = std::vector<std::int64_t>;

enum Name : std::int64_t { name_x = 1, name_w, name_y, name_bias };

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

struct Key {
  ConvKind kind;
  ConvShape shape;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    const ConvShape& s = key.shape;
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over words
    for (const std::int64_t word :
         {static_cast<std::int64_t>(key.kind), static_cast<std::int64_t>(s.dtype), s.batch,
          s.height, s.width, s.channels, s.outputs, s.rows, s.columns, s.stride, s.pad_rows,
          s.pad_columns, std::int64_t{s.bias}})
      hash = (hash ^ static_cast<std::uint64_t>(word)) * 0x100000001b3u;
    return hash;
  }
};

std::string describe(const Key& key) {
  const ConvShape& s = key.shape;
  return fmt::format("conv2d{} ({}, {}, {}, {}) {} with ({}, {}, {}, {}) stride {}",
                     key.kind == ConvKind::forward ? "" : " input gradient", s.batch, s.height,
                     s.width, s.channels, name_of(s.dtype), s.outputs, s.rows, s.columns,
                     s.channels, s.stride);
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

void add_convolution(fe::graph::Graph& graph, const Key& key) {
  const ConvShape& s = key.shape;
  const Extents x_extents{s.batch, s.channels, s.height, s.width};
  const Extents w_extents{s.outputs, s.channels, s.rows, s.columns};
  const Extents y_extents{s.batch, s.outputs, s.out_height(), s.out_width()};
  const auto as_result = [&](const auto& tensor, Name name, const Extents& extents) {
    const auto layout = image(name, s.dtype, extents);
    tensor->set_uid(name).set_dim(extents).set_stride(layout.get_stride());
    tensor->set_data_type(vendor_type(s.dtype)).set_output(true);
  };
  const auto w = graph.tensor(image(name_w, s.dtype, w_extents));
  if (key.kind == ConvKind::input_gradient) {
    const auto dy = graph.tensor(image(name_y, s.dtype, y_extents));
    as_result(graph.conv_dgrad(dy, w, geometry<fe::graph::Conv_dgrad_attributes>(s)), name_x,
              x_extents);
    return;
  }
  const auto x = graph.tensor(image(name_x, s.dtype, x_extents));
  auto y = graph.conv_fprop(x, w, geometry<fe::graph::Conv_fprop_attributes>(s));
  if (s.bias) {
    y->set_dim(y_extents).set_stride(image(name_y, s.dtype, y_extents).get_stride());
    const auto bias = graph.tensor(image(name_bias, s.dtype, {1, s.outputs, 1, 1}));
    y = graph.pointwise(y, bias,
                        fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
  }
  as_result(y, name_y, y_extents);
}

}  // namespace

class Graphs::Impl {
 public:
  void run(Exec& exec, cudaStream_t stream, const Key& key, const ConvData& data) {
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, build(key)).first;
    fe::graph::Graph& graph = *found->second;
    std::unordered_map<std::int64_t, void*> pointers{
        {name_x, data.x}, {name_w, const_cast<void*>(data.w)}, {name_y, data.y}};
    if (key.shape.bias) pointers.emplace(name_bias, const_cast<void*>(data.bias));
    std::int64_t bytes = 0;
    check(graph.get_workspace_size(bytes), "get_workspace_size", describe(key));
    const ArenaScope scope(exec.arena);
    const Tensor workspace = exec.empty(DType::u8, {bytes});
    const cudnnStatus_t status = cudnnSetStream(handle_, stream);
    if (status != CUDNN_STATUS_SUCCESS)
      fail(Exit::internal, "cudnnSetStream: {}", cudnnGetErrorString(status));
    check(graph.execute(handle_, pointers, workspace.data), "execute", describe(key));
  }

 private:
  std::unique_ptr<fe::graph::Graph> build(const Key& key) {
    auto graph = std::make_unique<fe::graph::Graph>();
    graph->set_io_data_type(vendor_type(key.shape.dtype))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    add_convolution(*graph, key);
    const std::string what = describe(key);
    check(graph->validate(), "validate", what);
    check(graph->build_operation_graph(handle_), "build_operation_graph", what);
    check(graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}),
          "create_execution_plans", what);
    graph->deselect_numeric_notes(unwanted(key.shape.dtype));
    check(graph->check_support(), "check_support", what);
    check(graph->build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), "build_plans", what);
    return graph;
  }

  Handle handle_;
  std::unordered_map<Key, std::unique_ptr<fe::graph::Graph>, KeyHash> plans_;
};

Graphs::Graphs() : impl_(std::make_unique<Impl>()) {}
Graphs::~Graphs() = default;

void Graphs::conv(Exec& exec, cudaStream_t stream, ConvKind kind, const ConvShape& shape,
                  const ConvData& data) {
  impl_->run(exec, stream, {kind, shape}, data);
}

}  // namespace strata::cuda
