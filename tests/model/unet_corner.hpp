#pragma once
// One corner of the U-Net's config space: tests/golden/unet/NAME, made by
// tools/makers/goldens_unet.py, and how far ours is from diffusers there.

#include "golden.hpp"
#include "model/unet_example.hpp"
#include "model/weights.hpp"

namespace strata::test {

class UNetCorner {
 public:
  /// Relative L2 errors against diffusers in fp32.
  struct Errors {
    double prediction = 0, loss = 0;
    double gradients = 0;       // of all parameters laid end to end
    double worst_gradient = 0;  // of one parameter
    std::string worst_parameter;
  };

  explicit UNetCorner(const std::string& name)
      : folder_(golden("unet/" + name)),
        unet_(UNetConfig::from_folder(folder_)),
        expected_(folder_ + "/expected.safetensors"),
        example_(UNetExample::read(SafetensorsFile(folder_ + "/input.safetensors"), unet_.config(),
                                   true)),
        flat_(load_parameters(unet_.parameters(),
                              SafetensorsFolder(folder_, "diffusion_pytorch_model"))) {}

  const UNet& unet() const { return unet_; }
  const ParameterTable& table() const { return unet_.parameters(); }
  const UNetExample& example() const { return example_; }
  const std::string& folder() const { return folder_; }
  /// The parameters in f32 or bf16.
  Buffer parameters(DType dtype, Device device = host_device) const {
    Buffer copy(DType::f32, flat_.tensor().shape);
    std::copy_n(flat_.as<float>(), table().numel(), copy.as<float>());
    return convert_parameters(std::move(copy), dtype, device);
  }
  UNetOutcome run(Exec& exec, Tensor parameters, Gradients* gradients,
                  bool recompute = false) const {
    return strata::run(exec, unet_, {table(), parameters}, example_, gradients, recompute);
  }

  /// PyTorch's own error in bf16: "bf16_error" of the prediction, "bf16_grad_error" of all
  /// gradients.
  double of_pytorch(const std::string& name) const {
    return expected_.read_f32(name).as<float>()[0];
  }

  Errors measure(DType dtype, Device device = host_device) const {
    Exec exec(device, 1);  // tiny models: threads would only wait for each other
    DenseGradients gradients(table(), device);
    const auto outcome = run(exec, parameters(dtype, device), &gradients);
    const Buffer flat = gradients.on_host();
    const Weights by_id(table(), flat);
    Errors errors;
    errors.prediction = relative_l2(outcome.prediction, expected_.read_f32("prediction"));
    const double loss = expected_.read_f32("loss").as<float>()[0];
    errors.loss = std::abs(outcome.loss - loss) / loss;
    double difference = 0, norm = 0;
    for (ParamId id = 0; id < table().size(); ++id) {
      const Buffer theirs = expected_.read_f32("grad." + table()[id].name);
      Buffer ours(DType::f32, table()[id].shape);
      export_parameter(table()[id], ours, by_id[id]);
      const auto [here, size] = squares(ours, theirs);
      difference += here;
      norm += size;
      const double error = ratio(here, size);
      if (!(error <= errors.worst_gradient)) {
        errors.worst_gradient = error;
        errors.worst_parameter = table()[id].name;
      }
    }
    errors.gradients = ratio(difference, norm);
    return errors;
  }

 private:
  std::string folder_;
  UNet unet_;
  SafetensorsFile expected_;
  UNetExample example_;
  Buffer flat_;
};

}  // namespace strata::test
