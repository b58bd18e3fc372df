#!/usr/bin/env python3
"""Writes tests/golden/unet/NAME: small random U-Nets with what diffusers and PyTorch make of them.

Each folder is a model folder (config.json, diffusion_pytorch_model.safetensors) with
input.safetensors, as `strata eval unet --grad` reads it, and expected.safetensors: `prediction`,
`loss`, `grad.NAME` in fp32, and `bf16_error`, `bf16_grad_error`: the relative L2 error of PyTorch's own
bf16 run against its fp32 run.

Made with torch 2.15, diffusers 0.42, safetensors 0.8 on the CPU.
Usage: goldens_unet.py OUTPUT_FOLDER
"""
import copy
import json
import pathlib
import sys

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

DOWN = ["CrossAttnDownBlock2D", "DownBlock2D"]
UP = ["UpBlock2D", "CrossAttnUpBlock2D"]

CASES = {
    # The shape of SD2: linear projections, heads by level, no attention at the coarsest level.
    "sd2": dict(
        config=dict(block_out_channels=[12, 24], down_block_types=DOWN, up_block_types=UP,
                    attention_head_dim=[2, 4], use_linear_projection=True, layers_per_block=1,
                    cross_attention_dim=20, norm_num_groups=4, sample_size=8),
        size=(8, 8), batch=2, tokens=5, dtype=torch.float32),
    # The shape of SD1: convolutions as projections, one number of heads; odd sizes.
    "sd1": dict(
        config=dict(block_out_channels=[8, 16, 16],
                    down_block_types=[DOWN[0], DOWN[0], DOWN[1]],
                    up_block_types=[UP[0], UP[1], UP[1]], attention_head_dim=2,
                    use_linear_projection=False, layers_per_block=2, cross_attention_dim=12,
                    norm_num_groups=4, sample_size=[9, 7]),
        size=(9, 7), batch=2, tokens=4, dtype=torch.float16),
    # Pooled caption, bias-free text projection, two transformer layers, masks down to an empty one.
    "pooled": dict(
        config=dict(block_out_channels=[8, 16], down_block_types=[DOWN[0], DOWN[0]],
                    up_block_types=[UP[1], UP[1]], attention_head_dim=[1, 2],
                    use_linear_projection=True, layers_per_block=1,
                    transformer_layers_per_block=2, cross_attention_dim=12, norm_num_groups=2,
                    class_embed_type="projection", projection_class_embeddings_input_dim=10,
                    encoder_hid_dim=14, encoder_hid_dim_type="text_proj", sample_size=6),
        size=(6, 10), batch=3, tokens=6, lengths=[6, 0, 3], dtype=torch.bfloat16,
        projection_bias=False),
    # Text projection with diffusers' bias, other conventions of the timestep, uneven masks.
    "projected": dict(
        config=dict(block_out_channels=[12, 16], down_block_types=DOWN, up_block_types=UP,
                    attention_head_dim=2, use_linear_projection=True, layers_per_block=1,
                    cross_attention_dim=16, norm_num_groups=2, norm_eps=1e-3,
                    flip_sin_to_cos=False, freq_shift=1, in_channels=3, out_channels=5,
                    encoder_hid_dim=20, sample_size=7),
        size=(7, 12), batch=2, tokens=7, lengths=[2, 7], dtype=torch.float32),
}


class MaskedAttention:
    """Attention from its formula; a row without keys gives 0 before `to_out`."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, rows, width = hidden_states.shape
        split = lambda x: x.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(context)), split(attn.to_v(context))
        scores = q @ k.transpose(-1, -2) * attn.scale
        if attention_mask is None:
            weights = scores.softmax(-1)
        else:
            keep = (attention_mask > -1)[:, None]
            scores = scores.masked_fill(~keep, -3e4)
            weights = scores.softmax(-1) * keep
        return attn.to_out[0]((weights @ v).transpose(1, 2).reshape(batch, rows, width))


def randomise(model, dtype):
    """Norms and biases that matter; every value exactly representable in `dtype`."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                is_scale = name.endswith(".weight")
                p.copy_((1.0 if is_scale else 0.0) + 0.3 * torch.randn_like(p))
            p.copy_(p.to(dtype).to(p.dtype))


def run(model, inputs, dtype):
    to = lambda name: inputs[name].to(dtype) if name in inputs else None
    prediction = model(to("sample"), inputs["timestep"], to("encoder_hidden_states"),
                       class_labels=to("class_labels"),
                       encoder_attention_mask=inputs.get("encoder_attention_mask")).sample
    loss = ((prediction.float() - inputs["target"]) ** 2).mean()
    model.zero_grad()
    loss.backward()
    return prediction.detach().float(), loss.detach(), {
        name: p.grad.float().clone() for name, p in model.named_parameters()}


def relative(a, b):
    return (a - b).norm() / b.norm()


def make(name, case, out):
    torch.manual_seed(sum(map(ord, name)))
    model = UNet2DConditionModel(**case["config"]).eval()
    if not case.get("projection_bias", True):
        old = model.encoder_hid_proj
        model.encoder_hid_proj = torch.nn.Linear(old.in_features, old.out_features, bias=False)
    if 0 in case.get("lengths", []):
        model.set_attn_processor(MaskedAttention())
    randomise(model, case["dtype"])

    config, batch = model.config, case["batch"]
    inputs = {
        "sample": torch.randn(batch, config.in_channels, *case["size"]),
        "timestep": torch.randint(0, 1000, (batch,)),
        "encoder_hidden_states": torch.randn(
            batch, case["tokens"], config.encoder_hid_dim or config.cross_attention_dim),
        "target": torch.randn(batch, config.out_channels, *case["size"]),
    }
    if "lengths" in case:
        lengths = torch.tensor(case["lengths"])[:, None]
        inputs["encoder_attention_mask"] = (torch.arange(case["tokens"]) < lengths).long()
    if config.class_embed_type:
        inputs["class_labels"] = torch.randn(batch, config.projection_class_embeddings_input_dim)

    prediction, loss, gradients = run(model, inputs, torch.float32)
    low, _, low_gradients = run(copy.deepcopy(model).bfloat16(), inputs, torch.bfloat16)
    flat = lambda g: torch.cat([g[k].flatten() for k in sorted(g)])
    expected = {"prediction": prediction, "loss": loss, "bf16_error": relative(low, prediction),
                "bf16_grad_error": relative(flat(low_gradients), flat(gradients))}
    expected.update({"grad." + k: v for k, v in gradients.items()})

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    written = {k: v for k, v in dict(config).items() if k in case["config"]}
    written["_class_name"] = "UNet2DConditionModel"
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    save_file({k: v.to(case["dtype"]).contiguous() for k, v in model.state_dict().items()},
              folder / "diffusion_pytorch_model.safetensors")
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "input.safetensors")
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), "parameters, loss %.4f, bf16 %.2e, %.2e"
          % (loss, expected["bf16_error"], expected["bf16_grad_error"]))


if __name__ == "__main__":
    for case_name, definition in CASES.items():
        make(case_name, definition, pathlib.Path(sys.argv[1]))
