#!/usr/bin/env python3
"""Trains the miniature study's VAE (diffusers AutoencoderKL, 32x32 RGB -> 4x8x8) on the world.

    g++ -std=c++20 -O2 -Isrc tools/makers/miniature_world.cpp src/evaluate/world*.cpp -o world
    tools/makers/miniature_vae.py --world ./world --out data/miniature/vae

The latents come out with mean 0 and deviation 1 in every channel: the statistics are folded into
the two 1x1 convolutions at the bottleneck. scaling_factor is 0.5 all the same: one prototype run each
scored 0.60 at deviation 1 and 0.70 at 0.5 after 40,000 images (docs/miniature.md).
"""
import argparse
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch
from diffusers import AutoencoderKL

CONFIG = dict(
    in_channels=3, out_channels=3, latent_channels=4, sample_size=32, layers_per_block=1,
    block_out_channels=(16, 32, 64), norm_num_groups=8, scaling_factor=0.5,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)


def dump(world, seed, count, *options):
    """Pictures (count, 3, 32, 32) uint8 and their captions."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/scenes"
        subprocess.run([world, "dump", str(seed), str(count), out, *options], check=True)
        rgb = np.fromfile(out + ".rgb", np.uint8).reshape(-1, 32, 32, 3)
        return torch.from_numpy(rgb.transpose(0, 3, 1, 2).copy()), open(out + ".txt").read()


def scores(world, pictures, captions):
    """Mean fraction of the captions' facts that hold in `pictures` (N, 3, 32, 32) in [-1, 1]."""
    rgb = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    with tempfile.TemporaryDirectory() as folder:
        rgb.contiguous().numpy().tofile(folder + "/p.rgb")
        pathlib.Path(folder + "/p.txt").write_text(captions)
        lines = subprocess.run([world, "score", folder + "/p.rgb", folder + "/p.txt"], check=True,
                               capture_output=True, text=True).stdout.split()
    return np.mean([float(x) for x in lines[::2]])


def as_input(pictures):
    return pictures.float() / 127.5 - 1


def train(model, pictures, minutes, batch, rate, report):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)
    start, step = time.time(), 0
    while (done := (time.time() - start) / 60 / minutes) < 1:
        lr = rate * min(1, (step + 1) / 100) * max(0.01, 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x = as_input(pictures[torch.randint(len(pictures), (batch,))])
        corner = x[:, :, :1, :1]  # always background
        weight = 1 + 3 * ((x - corner).abs().amax(1, keepdim=True) > 0.1)
        posterior = model.encode(x.to(memory_format=torch.channels_last)).latent_dist
        spread = posterior.mean.detach().std((0, 2, 3), keepdim=True)
        noise = 0.25 * torch.rand(batch, 1, 1, 1) * spread  # what a diffusion model leaves behind
        left_over = noise * torch.randn_like(posterior.mean)
        y = model.decode(posterior.sample() + left_over).sample
        error = y - x
        loss = (weight * (error.square() + 0.2 * error.abs())).mean() + 1e-5 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            report(step, step * batch, time.time() - start, error.square().mean().item())


@torch.no_grad()
def normalise_latents(model, pictures):
    """Folds the latents' mean and deviation into quant_conv and post_quant_conv."""
    mean, std = (f(encode(model, pictures)) for f in (lambda z: z.mean((0, 2, 3)),
                                                      lambda z: z.std((0, 2, 3))))
    enter, leave = model.quant_conv, model.post_quant_conv
    enter.weight[:4] /= std[:, None, None, None]
    enter.bias[:4] = (enter.bias[:4] - mean) / std
    enter.bias[4:] -= 2 * std.log()
    leave.bias += leave.weight[:, :, 0, 0] @ mean
    leave.weight *= std[None, :, None, None]


@torch.no_grad()
def encode(model, pictures):
    return torch.cat([model.encode(as_input(p)).latent_dist.mean for p in pictures.split(250)])


@torch.no_grad()
def round_trip(model, pictures, noise=0.0):
    z = encode(model, pictures)
    z = z + noise * z.std((0, 2, 3), keepdim=True) * torch.randn_like(z)
    return torch.cat([model.decode(part).sample for part in z.split(250)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True, help="the compiled miniature_world")
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(17)

    pictures = torch.cat([dump(args.world, 1, 20000, "any")[0], dump(args.world, 2, 20000)[0]])
    held_out, captions = dump(args.world, 3, 1000)
    model = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")

    def report(step, images, seconds, error):
        note = ""
        if step % 500 == 0:
            model.save_pretrained(args.out + ".partial")
            note = f" score {scores(args.world, round_trip(model, held_out), captions):.4f}"
        print(f"step {step} images {images} {seconds:.0f} s mse {error:.5f}{note}", flush=True)

    train(model, pictures, args.minutes, args.batch, args.rate, report)
    normalise_latents(model, dump(args.world, 4, 2000)[0])
    model = model.to(torch.bfloat16)
    model.save_pretrained(args.out)
    model = model.float()
    for noise in (0, 0.1, 0.2, 0.4):
        print(f"bf16 weights, latent noise {noise}: "
              f"score {scores(args.world, round_trip(model, held_out, noise), captions):.4f}")


if __name__ == "__main__":
    main()
