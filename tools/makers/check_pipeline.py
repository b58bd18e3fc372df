"""A stock diffusers pipeline against `strata sample`, on the same exported folder and the same noise.

Run: python3 tools/makers/check_pipeline.py build/host/strata data/miniature /tmp/check [--steps 50] [--cfg 7]
Made with diffusers 0.42, torch 2.15, transformers 5.23. Needs about a minute.

The trained U-Net of the miniature study is exported with `strata convert`, once as it is (it takes a pooled
vector, which StableDiffusionPipeline does not pass on: class_labels is set from outside) and once without its
class_embedding, which needs nothing from outside. Unconditional rows are zeros: without a bias in the projection
their keys and values are 0, as with an empty set of keys. The whole folder is also opened by
StableDiffusionPipeline.from_pretrained. Exits with 1 when a picture is below 50 dB, or when
diffusers -> checkpoint -> diffusers changes a byte.
"""

import argparse
import filecmp
import functools
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       StableDiffusionPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors.torch import load_file, save_file

SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"


def strip_pooled(source: pathlib.Path, out: pathlib.Path) -> None:
    out.mkdir(parents=True)
    config = json.loads((source / CONFIG).read_text())
    del config["class_embed_type"], config["projection_class_embeddings_input_dim"]
    (out / CONFIG).write_text(json.dumps(config, indent=2))
    tensors = {n: t for n, t in load_file(source / WEIGHTS).items() if not n.startswith("class_embedding")}
    save_file(tensors, out / WEIGHTS, {"format": "pt"})


def check_round_trip(strata, source: pathlib.Path, out: pathlib.Path, dtype: torch.dtype) -> bool:
    """What save_pretrained writes, through a checkpoint and back."""
    unet = UNet2DConditionModel.from_pretrained(source, torch_dtype=dtype)
    torch.nn.init.normal_(unet.encoder_hid_proj.bias)
    unet.save_pretrained(out / "source")
    strata("convert", "--to", "checkpoint", "--from", out / "source", "--out", out / "checkpoints")
    strata("convert", "--to", "diffusers", "--from", out / "checkpoints", "--out", out / "back")
    same = all(filecmp.cmp(out / "source" / name, out / "back/unet" / name, shallow=False)
               for name in (WEIGHTS, CONFIG))
    print(f"round trip {dtype}: {'byte-identical' if same else 'DIFFERENT'}")
    return same


def psnr(a, b):
    error = numpy.mean((a.astype(numpy.float64) - b.astype(numpy.float64)) ** 2)
    return float("inf") if error == 0 else 10 * numpy.log10(255**2 / error)


def picture_of(pipeline, dump, steps, cfg):
    tokens, noise = dump["tokens"][None], dump["noise"][None]
    forward = pipeline.unet.forward
    if "pooled" in dump:
        labels = torch.stack([torch.zeros_like(dump["pooled"]), dump["pooled"]])
        pipeline.unet.forward = functools.partial(forward, class_labels=labels)
    images = pipeline(prompt_embeds=tokens, negative_prompt_embeds=torch.zeros_like(tokens), latents=noise,
                      num_inference_steps=steps, guidance_scale=cfg, output_type="np").images
    pipeline.unet.forward = forward
    return numpy.round(images[0] * 255).astype(numpy.uint8)


def compare(strata, exported, prompts, out, arguments) -> float:
    unet = UNet2DConditionModel.from_pretrained(exported / "unet")
    vae = AutoencoderKL.from_pretrained(exported / "vae")
    worst = float("inf")
    for name, scheduler in SCHEDULERS.items():
        images = out / name
        strata("sample", "--checkpoint", exported, "--prompts", prompts, "--out", images, "--sampler", name,
               "--steps", arguments.steps, "--cfg", arguments.cfg, "--dump")
        pipeline = StableDiffusionPipeline(
            vae=vae, text_encoder=None, tokenizer=None, unet=unet, safety_checker=None, feature_extractor=None,
            scheduler=scheduler(), requires_safety_checker=False)
        # StableDiffusionPipeline silently makes steps_offset 1 of a scheduler's 0 when it is built; not afterwards.
        pipeline.scheduler = scheduler.from_pretrained(exported / "scheduler")
        pipeline.set_progress_bar_config(disable=True)
        levels = [psnr(picture_of(pipeline, load_file(dump), arguments.steps, arguments.cfg),
                       numpy.asarray(Image.open(images / f"{dump.stem}.png")))
                  for dump in sorted((images / "dump").iterdir())]
        print(f"{exported.name} {name}: lowest PSNR {min(levels):.1f} dB of {len(levels)} pictures")
        worst = min(worst, *levels)
    opened = StableDiffusionPipeline.from_pretrained(exported)
    print(f"{exported.name}: StableDiffusionPipeline with {type(opened.text_encoder).__name__}, "
          f"{type(opened.tokenizer).__name__}, {type(opened.scheduler).__name__}")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("strata")
    parser.add_argument("miniature", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cfg", type=float, default=7.0)
    parser.add_argument("--pictures", type=int, default=2)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)

    def strata(*words):
        subprocess.run([arguments.strata, *map(str, words)], check=True, capture_output=True)

    prompts = arguments.out / "prompts.jsonl"
    lines = (arguments.miniature / "prompts.jsonl").read_text().splitlines(keepends=True)
    prompts.write_text("".join(lines[:arguments.pictures]))
    strip_pooled(arguments.miniature / "unet", arguments.out / "stripped")
    good = all([check_round_trip(strata, arguments.miniature / "unet", arguments.out / str(dtype), dtype)
                for dtype in (torch.float32, torch.float16, torch.bfloat16)])
    for name, unet in ("pooled", arguments.miniature / "unet"), ("stock", arguments.out / "stripped"):
        exported = arguments.out / name
        strata("convert", "--to", "diffusers", "--from", unet, "--out", exported,
               "--vae", arguments.miniature / "vae", "--encoder", arguments.miniature / "encoder")
        good &= compare(strata, exported, prompts, arguments.out / f"images-{name}", arguments) >= 50
    return 0 if good else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore", FutureWarning)
    with torch.inference_mode():
        sys.exit(main())
