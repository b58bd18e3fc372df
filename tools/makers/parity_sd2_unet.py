#!/usr/bin/env python3
"""Measures SD2's real U-Net (configs/models/sd2-unet, random weights) against diffusers on one file.

Makes the model in FOLDER (3.5 GB), runs diffusers and `strata eval unet` in fp32 and bf16 on the same
32 x 32 latents and 77 tokens, and prints errors against diffusers' fp32, seconds and peak memory. One
process at a time; needs about 8 GB of memory. Seconds: diffusers' second forward pass, without loading;
Strata's whole process (loading, converting, one forward pass).

Made with torch 2.15, diffusers 0.42, safetensors 0.8 on the CPU.
Usage: parity_sd2_unet.py STRATA FOLDER
"""
import json
import pathlib
import resource
import subprocess
import sys
import time

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from goldens_unet import randomise, relative

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make(folder):
    torch.manual_seed(2)
    config = json.loads((ROOT / "configs/models/sd2-unet/config.json").read_text())
    model = UNet2DConditionModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    randomise(model, torch.float32)
    model.save_pretrained(folder, max_shard_size="20GB")
    save_file({"sample": torch.randn(1, 4, 32, 32), "timestep": torch.tensor([421]),
               "encoder_hidden_states": torch.randn(1, 77, 1024)}, folder / "input.safetensors")


def diffusers(folder, dtype, out):
    model = UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype).eval()
    inputs = load_file(folder / "input.safetensors")
    with torch.no_grad():
        for _ in range(2):
            start = time.monotonic()
            prediction = model(inputs["sample"].to(dtype), inputs["timestep"],
                               inputs["encoder_hidden_states"].to(dtype)).sample
            seconds = time.monotonic() - start
    save_file({"prediction": prediction.float().contiguous()}, out)
    print(seconds)


def measured(command):
    """What it printed, seconds, peak resident GB."""
    start = time.monotonic()
    # A process of its own between: ru_maxrss of children is the largest of all that ended.
    child = subprocess.run([sys.executable, __file__, "--watch", *map(str, command)],
                           stdout=subprocess.PIPE, text=True, check=True)
    *printed, peak = child.stdout.split("\n")[:-1]
    return printed, time.monotonic() - start, int(peak) / 1e6


def compare(strata, folder):
    make_step = [sys.executable, __file__, "--make", folder]
    subprocess.run(make_step, check=True)
    reference = None
    print("| who | precision | relative L2 to diffusers fp32 | seconds | peak GB |\n|---|---|---|---|---|")
    for dtype, precision in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        name = str(dtype).split(".")[1]
        out = folder / f"diffusers-{precision}.safetensors"
        printed, _, peak = measured([sys.executable, __file__, "--diffusers", folder, name, out])
        prediction = load_file(out)["prediction"]
        reference = prediction if reference is None else reference
        print(f"| diffusers | {precision} | {relative(prediction, reference):.2e} | "
              f"{float(printed[-1]):.1f} | {peak:.2f} |", flush=True)
        out = folder / f"strata-{precision}.safetensors"
        _, seconds, peak = measured([strata, "eval", "unet", "--model", folder, "--input",
                                     folder / "input.safetensors", "--output", out,
                                     "--precision", precision])
        print(f"| strata | {precision} | {relative(load_file(out)['prediction'], reference):.2e} | "
              f"{seconds:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    if mode == "--make":
        make(pathlib.Path(rest[0]))
    elif mode == "--diffusers":
        diffusers(pathlib.Path(rest[0]), getattr(torch, rest[1]), rest[2])
    elif mode == "--watch":
        subprocess.run(rest, check=True)
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    else:
        compare(mode, pathlib.Path(rest[0]))
