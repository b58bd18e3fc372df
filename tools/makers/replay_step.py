#!/usr/bin/env python3
"""Replays the steps that `strata train --dump-steps N` wrote, in PyTorch and diffusers.

  strata train --config run.toml --dump-steps 3 --set train.steps=3 --set train.precision=fp32
  strata convert --to diffusers --from RUN/checkpoints/step-00000003 --out after
  python tools/makers/replay_step.py --run RUN --before unet-at-step-0/ --after after/unet

--before is the diffusers folder the run started from: model.init, or the exported checkpoint that
`--set train.steps=0` writes; --after the exported checkpoint behind the last dumped step. Each step's loss is computed from the dumped noisy latents, timesteps and
text, and must agree within 1e-5; noise and noisy latents must fit the schedule; torch.optim.AdamW then
makes the update, and the sum of all updates must agree within a relative L2 of 1e-4. Exit 1 otherwise.

Made with torch 2.15, diffusers 0.42, safetensors.
"""

import argparse
import glob
import json
import os
import re
import sys

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open


def read(path):
    with safe_open(path, "pt") as f:
        return {k: f.get_tensor(k) for k in f.keys()}, f.metadata()


def steps_of(run):
    """{step: [(tensors, metadata) of every rank]}"""
    steps = {}
    for path in glob.glob(os.path.join(run, "dump", "step-*.rank-*.safetensors")):
        step = int(re.search(r"step-(\d+)\.rank-", path).group(1))
        steps.setdefault(step, []).append(read(path))
    return dict(sorted(steps.items()))


def padded_text(dump):
    """Packed (T,D) and offsets -> (B,longest,D) and a mask."""
    offsets = dump["offsets"].tolist()
    lengths = [b - a for a, b in zip(offsets, offsets[1:])]
    longest = max(max(lengths), 1)
    text = torch.zeros(len(lengths), longest, dump["text"].shape[1])
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for i, (a, n) in enumerate(zip(offsets, lengths)):
        text[i, :n] = dump["text"][a : a + n]
        mask[i, :n] = 1
    return text, mask


def predict(unet, dump):
    """Samples without tokens attend to nothing: their cross-attention is 0 before to_out. diffusers'
    additive mask spreads evenly over masked keys instead, so zero values are what gives 0: text 0 does,
    because to_v has no bias (a projection's bias in front of it is zero)."""
    text, mask = padded_text(dump)
    empty = mask.sum(1) == 0
    mask[empty] = 1
    kwargs = {"class_labels": dump["pooled"]} if "pooled" in dump else {}
    return unet(
        dump["noisy"],
        dump["timesteps"],
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        **kwargs,
    ).sample


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", required=True)
    arguments = parser.parse_args()

    unet = UNet2DConditionModel.from_pretrained(arguments.before, torch_dtype=torch.float32)
    # The projection's bias exists only for diffusers' sake: it is not a parameter of the run.
    trained = {n: p for n, p in unet.named_parameters() if n != "encoder_hid_proj.bias"}
    before = {n: p.detach().clone() for n, p in trained.items()}
    after = UNet2DConditionModel.from_pretrained(arguments.after, torch_dtype=torch.float32)
    after = dict(after.named_parameters())

    steps = steps_of(arguments.run)
    if not steps:
        sys.exit(f"{arguments.run}: no dump")
    optimizer = None
    failed = False
    print("| step | samples | loss (strata) | loss (torch) | difference | grad norm (strata) | grad norm (torch) |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for step, ranks in steps.items():
        meta = ranks[0][1]
        if len(ranks) != int(meta["ranks"]):
            sys.exit(f"step {step}: {len(ranks)} of {meta['ranks']} ranks")
        schedule = DDPMScheduler(
            num_train_timesteps=int(meta["timesteps"]),
            beta_start=float(meta["beta_start"]),
            beta_end=float(meta["beta_end"]),
            beta_schedule=meta["beta_schedule"],
            prediction_type=meta["prediction"],
        )
        lr = float(meta["lr"])
        if optimizer is None:
            optimizer = torch.optim.AdamW(
                trained.values(),
                lr=lr,
                betas=(float(meta["beta1"]), float(meta["beta2"])),
                eps=float(meta["eps"]),
                weight_decay=float(meta["weight_decay"]),
            )
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        batch = int(meta["batch"])
        gamma = float(meta["min_snr_gamma"])
        total, samples = 0.0, 0
        for dump, _ in ranks:
            t = dump["timesteps"]
            noisy = schedule.add_noise(dump["latents"], dump["noise"], t)
            worst = (noisy - dump["noisy"]).abs().max().item()
            if worst > 1e-5:
                print(f"step {step}: noisy latents differ by {worst}")
                failed = True
            if meta["prediction"] == "epsilon":
                target = dump["noise"]
            else:
                target = schedule.get_velocity(dump["latents"], dump["noise"], t)
            each = ((predict(unet, dump) - target) ** 2).mean(dim=(1, 2, 3))
            worst = (each.detach() - dump["loss"]).abs().max().item()
            if worst > 1e-5:
                print(f"step {step}: a sample's loss differs by {worst}")
                failed = True
            weight = torch.ones_like(each)
            if gamma > 0:
                alpha = schedule.alphas_cumprod[t]
                snr = alpha / (1 - alpha)
                divisor = snr if meta["prediction"] == "epsilon" else snr + 1
                weight = torch.clamp(snr, max=gamma) / divisor
            loss = (weight * each).sum() / batch
            loss.backward()
            total += loss.item()
            samples += len(each)
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), float(meta["clip"]) or float("inf")).item()
        optimizer.step()
        theirs = float(meta["global_loss"])
        difference = abs(total - theirs)
        failed |= not difference <= 1e-5 or samples != batch
        print(
            f"| {step} | {samples} | {theirs:.7f} | {total:.7f} | {difference:.1e} "
            f"| {float(meta['grad_norm']):.6f} | {norm:.6f} |"
        )

    ours_flat = torch.cat([(trained[n] - before[n]).detach().flatten() for n in trained])
    theirs_flat = torch.cat([(after[n] - before[n]).detach().flatten() for n in trained])
    error = ((ours_flat - theirs_flat).norm() / ours_flat.norm()).item()
    failed |= not error <= 1e-4
    print(f"\nupdate of {ours_flat.numel()} parameters over {len(steps)} steps: "
          f"|torch| {ours_flat.norm():.6g}, |strata| {theirs_flat.norm():.6g}, relative L2 {error:.2e}")
    print(json.dumps({"ok": not failed, "update_relative_l2": error}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
