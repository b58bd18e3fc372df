#!/usr/bin/env python3
"""Writes tests/golden/vae/NAME: small random AutoencoderKLs with what diffusers makes of them.

Each folder is a model folder with input.safetensors (`image`, `latent`, and for some `wide`, a latent of
several tiles) and expected.safetensors: `mean`, `logvar` after the clamp, `image`, `tiled` (diffusers'
tiled decode of `wide` at `tile` pixels, and `untiled`), and `bf16_error.NAME`, the relative L2 error of
PyTorch's own bf16 run against its fp32 run. Every parameter matters: setting it to zero shows in the result.

Made with torch 2.15, diffusers 0.42, safetensors 0.8 on the CPU.
Usage: goldens_vae.py OUTPUT_FOLDER
"""
import copy
import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def config(channels, groups, **more):
    levels = len(channels)
    return dict(block_out_channels=channels, down_block_types=["DownEncoderBlock2D"] * levels,
                up_block_types=["UpDecoderBlock2D"] * levels, norm_num_groups=groups, **more)


CASES = {
    # As SD2's, three levels, sizes that do not divide; latent channels beyond both ends of the clamp.
    "sd2": dict(config=config([8, 16, 16], 4, layers_per_block=2), size=(18, 13), latent=(5, 3),
                dtype=torch.float16, clamp=True, tile=32, wide=(13, 21)),
    # Attention under the names of old files, no 1x1 convolutions.
    "old": dict(config=config([8, 12], 4, layers_per_block=1, use_quant_conv=False, latent_channels=3,
                              use_post_quant_conv=False, scaling_factor=0.5), size=(8, 12),
                latent=(4, 6), dtype=torch.bfloat16, old_names=True, tile=8, wide=(3, 11)),
    # As SD3's and Flux's: 16 latent channels, shifted, no 1x1 convolutions; two channels a group.
    "sd3": dict(config=config([8, 8, 8, 8], 4, layers_per_block=2, latent_channels=16, act_fn="swish",
                              use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305,
                              shift_factor=0.0609, force_upcast=True, latents_mean=None,
                              latents_std=None, sample_size=64), size=(17, 31),
                latent=(3, 2), dtype=torch.float32),
    # One level, three layers, no attention, one of the 1x1 convolutions; nothing is halved.
    "flat": dict(config=config([9], 3, layers_per_block=3, latent_channels=2, use_post_quant_conv=False,
                               mid_block_add_attention=False, shift_factor=None), size=(7, 10),
                 latent=(6, 5), dtype=torch.float32),
    # Two levels with three layers, the other 1x1 convolution, one group, one latent pixel.
    "narrow": dict(config=config([6, 10], 1, layers_per_block=3, latent_channels=5,
                                 use_quant_conv=False), size=(2, 3), latent=(1, 1),
                   dtype=torch.bfloat16),
}


def relative_l2(a, b):
    """Where b is off the ends of logvar's clamp, which would drown the others."""
    kept = b.abs() < 20
    a, b = a.float()[kept], b[kept]
    return ((a - b).norm() / b.norm()).reshape(())


@torch.no_grad()
def run(model, inputs):
    dtype = next(model.parameters()).dtype
    posterior = model.encode(inputs["image"].to(dtype)).latent_dist
    return {"mean": posterior.mean, "logvar": posterior.logvar,
            "image": model.decode(inputs["latent"].to(dtype)).sample}


@torch.no_grad()
def randomise(model, case):
    for key, p in model.named_parameters():
        if p.dim() == 1:
            p.copy_((1.0 if key.endswith(".weight") else 0.0) + 0.3 * torch.randn_like(p))
        if ".to_q." in key or ".to_k." in key:
            p.mul_(3.0)  # away from uniform attention
        p.copy_(p.to(case["dtype"]).to(p.dtype))
    if case.get("clamp"):
        model.quant_conv.bias[-1] = -40.0
        model.quant_conv.bias[-2] = 25.0


@torch.no_grad()
def check_every_parameter_matters(model, inputs, expected):
    for key, p in model.named_parameters():
        if key.endswith(".to_k.bias"):
            continue  # shifts all scores of a row alike: softmax does not see it
        if min(inputs["latent"].shape[2:]) == 1 and (".to_q." in key or ".to_k." in key):
            continue  # one latent pixel attends to itself
        kept = p.clone()
        p.zero_()
        changed = run(model, inputs)
        p.copy_(kept)
        most = max(relative_l2(changed[name], expected[name]).item() for name in expected)
        assert most > 1e-3, f"{key} hardly matters: {most}"


@torch.no_grad()
def tiled(model, latent, tile):
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    untiled = model.decode(latent).sample
    model.enable_tiling()
    model.tile_sample_min_size, model.tile_latent_min_size = tile, tile // factor
    result = model.decode(latent).sample
    model.disable_tiling()
    return {"tiled": result, "untiled": untiled, "tile": torch.tensor([tile])}


def make(name, case, out):
    torch.manual_seed(sum(map(ord, name)))
    model = AutoencoderKL(**case["config"]).eval()
    randomise(model, case)
    channels = model.config.latent_channels
    inputs = {"image": torch.rand(2, 3, *case["size"]) * 2 - 1,
              "latent": torch.randn(2, channels, *case["latent"])}
    expected = run(model, inputs)
    check_every_parameter_matters(model, inputs, expected)
    narrow = run(copy.deepcopy(model).to(torch.bfloat16), inputs)
    errors = {f"bf16_error.{key}": relative_l2(narrow[key], expected[key]) for key in expected}
    if case.get("wide"):
        inputs["wide"] = torch.randn(2, channels, *case["wide"])
        expected |= tiled(model, inputs["wide"], case["tile"])

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    written = dict(case["config"], _class_name="AutoencoderKL")
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    state = {}
    for key, value in model.state_dict().items():
        if case.get("old_names") and ".attentions." in key:
            for new, old in OLD_NAMES.items():
                key = key.replace(new, old)
        state[key] = value.to(case["dtype"]).contiguous()
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "input.safetensors")
    save_file({k: v.contiguous() for k, v in (expected | errors).items()},
              folder / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), "parameters, bf16 error",
          {k.split(".")[1]: round(v.item(), 5) for k, v in errors.items()})


if __name__ == "__main__":
    for case_name, definition in CASES.items():
        make(case_name, definition, pathlib.Path(sys.argv[1]))
