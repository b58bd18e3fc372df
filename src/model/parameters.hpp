#pragma once
// Parameters keep their safetensors names as their only names. They live in one flat buffer, in the
// order in which their gradients complete, so that ZeRO-2 can shard and send it in buckets.

#include <span>
#include <string>
#include <vector>

#include "core/buffer.hpp"
#include "core/exec.hpp"

namespace strata {

using ParamId = int;
inline constexpr ParamId no_param = -1;

/// How the tensor lies in memory relative to its shape in the file.
enum class ParamLayout {
  plain,      // as in the file
  conv_krsc,  // file (N,C,R,S), memory (N,R,S,C)
};

struct Parameter {
  std::string name;
  Shape shape;         // as in the safetensors file
  Shape memory_shape;  // as ops see it
  ParamLayout layout = ParamLayout::plain;
  std::int64_t offset = 0;  // elements, in the flat buffer
  bool trainable = true;
  std::int64_t numel() const { return shape.numel(); }
};

/// Modules add their parameters while they are built; `arrange` then fixes the flat order.
class ParameterTable {
 public:
  ParamId add(std::string name, Shape shape, ParamLayout layout = ParamLayout::plain);
  /// order: every id once, in the order in which backward completes their gradients.
  void arrange(std::span<const ParamId> completion_order);

  int size() const { return static_cast<int>(parameters_.size()); }
  std::int64_t numel() const;
  const Parameter& operator[](ParamId id) const { return parameters_[id]; }
  /// Elements to leave free before a flat buffer of `dtype`, which itself begins at a multiple of
  /// 16 bytes, so that as much as possible of it lies in parameters that begin at one, too: a
  /// parameter of odd size at the front moves all that follow it.
  std::int64_t lead(DType dtype) const;
  std::span<const ParamId> completion_order() const { return order_; }
  /// no_param when there is none of that name.
  ParamId find(std::string_view name) const;

 private:
  std::vector<Parameter> parameters_;
  std::vector<ParamId> order_;
};

/// Parameters that may still be on their way here from other ranks.
class Arrivals {
 public:
  virtual ~Arrivals() = default;
  /// Ops called from now on may read it.
  virtual void needs(ParamId id) = 0;
  virtual void needs_all() = 0;
};

/// Read access by id to a flat buffer of parameters (f32 or bf16) laid out by a table.
class Weights {
 public:
  Weights() = default;
  /// arrivals: asked before anything is handed out. Null: everything is here.
  Weights(const ParameterTable& table, Tensor flat, Arrivals* arrivals = nullptr)
      : table_(&table), flat_(flat), arrivals_(arrivals) {}
  /// In memory layout; absent for no_param.
  Tensor operator[](ParamId id) const;
  Tensor flat() const;
  DType dtype() const { return flat_.dtype; }
  const ParameterTable& table() const { return *table_; }

 private:
  const ParameterTable* table_ = nullptr;
  Tensor flat_{};
  Arrivals* arrivals_ = nullptr;
};

/// Where backward writes parameter gradients (f32, memory layout, accumulated) and says when a
/// layer's are complete for this microbatch.
class Gradients {
 public:
  virtual ~Gradients() = default;
  virtual Tensor operator[](ParamId id) = 0;  // absent for no_param
  virtual void ready(std::span<const ParamId> ids) = 0;
};

/// One whole flat f32 gradient: tests, `eval --grad`.
class DenseGradients : public Gradients {
 public:
  explicit DenseGradients(const ParameterTable& table, Device device = host_device);
  Tensor operator[](ParamId id) override;
  void ready(std::span<const ParamId>) override {}
  Tensor flat() const { return flat_; }
  /// The flat gradient where the host can read it, after all ops that were called before.
  Buffer on_host() const;

 private:
  const ParameterTable& table_;
  Buffer flat_;
};

/// Copies one parameter between file layout (f32) and memory layout (f32 or bf16).
void import_parameter(const Parameter&, Tensor memory, Tensor file_f32);
void export_parameter(const Parameter&, Tensor file_f32, Tensor memory);

}  // namespace strata
