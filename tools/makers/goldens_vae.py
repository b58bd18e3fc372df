#!/usr/bin/env python3
"""Writes tests/golden/vae/NAME: small random AutoencoderKLs with what diffusers makes of them.

Each folder is a model folder with input.safetensors (`image`, `latent`) and expected.safetensors
(`mean`, `logvar` after the clamp, `image`).

Made with torch 2.15, diffusers 0.42, safetensors 0.8 on the CPU.
Usage: goldens_vae.py OUTPUT_FOLDER
"""
import json
import pathlib
import sys

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def config(channels, **more):
    levels = len(channels)
    return dict(block_out_channels=channels, down_block_types=["DownEncoderBlock2D"] * levels,
                up_block_types=["UpDecoderBlock2D"] * levels, norm_num_groups=4, **more)


CASES = {
    # As SD2's, three levels, sizes that do not divide; one latent channel beyond the clamp.
    "sd2": dict(config=config([8, 16, 16], layers_per_block=2), size=(18, 13), latent=(5, 3),
                dtype=torch.float16, clamp=True),
    # Attention under the names of old files, no 1x1 convolutions.
    "old": dict(config=config([8, 12], layers_per_block=1, use_quant_conv=False, latent_channels=3,
                              use_post_quant_conv=False, scaling_factor=0.5), size=(8, 12),
                latent=(4, 6), dtype=torch.bfloat16, old_names=True),
}


def make(name, case, out):
    torch.manual_seed(sum(map(ord, name)))
    model = AutoencoderKL(**case["config"]).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_((1.0 if key.endswith(".weight") else 0.0) + 0.3 * torch.randn_like(p))
            p.copy_(p.to(case["dtype"]).to(p.dtype))
        if case.get("clamp"):
            model.quant_conv.bias[-1] = -40.0
            model.quant_conv.bias[-2] = 25.0
    inputs = {"image": torch.rand(2, 3, *case["size"]) * 2 - 1,
              "latent": torch.randn(2, model.config.latent_channels, *case["latent"])}
    with torch.no_grad():
        posterior = model.encode(inputs["image"]).latent_dist
        expected = {"mean": posterior.mean, "logvar": posterior.logvar,
                    "image": model.decode(inputs["latent"]).sample}

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
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), "parameters")


if __name__ == "__main__":
    for case_name, definition in CASES.items():
        make(case_name, definition, pathlib.Path(sys.argv[1]))
