#!/usr/bin/env python3
"""Replays the steps that `strata train --dump-steps N` wrote, in PyTorch and diffusers.

  strata train --config run.toml --dump-steps 3 --set train.steps=3 --set train.precision=fp32
  strata convert --to diffusers --from RUN/checkpoints/step-00000003 --out after
  python tools/makers/replay_step.py --run RUN --before unet-at-step-0/ --after after/unet

--before is the diffusers folder the run started from: model.init, or the exported checkpoint that
`--set train.steps=0` writes; --after the exported checkpoint behind the last dumped step. Each step's loss is
computed from the dumped noisy latents, timesteps and text, in float64, and must agree within 1e-5; noise and noisy
latents must fit the schedule; torch.optim.AdamW then makes the update.

The sum of all updates must agree with float64's within a relative L2 of 1e-4, or be no further from it than
PyTorch's own replay in float32: the first update is g / (|g| + eps), so the few gradients near eps = 1e-8, where
float32 has no correct digits, weigh as much as any other and set a floor that is no property of the program. Exit 1
otherwise.

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
    text = torch.zeros(len(lengths), longest, dump["text"].shape[1], dtype=dump["text"].dtype)
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


class Replay:
    """The run's steps in one floating-point type, from the same weights."""

    def __init__(self, folder, dtype):
        self.dtype = dtype
        self.unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=dtype)
        # The projection's bias exists only for diffusers' sake: it is not a parameter of the run.
        self.trained = {n: p for n, p in self.unet.named_parameters() if n != "encoder_hid_proj.bias"}
        self.before = {n: p.detach().clone() for n, p in self.trained.items()}
        self.optimizer = None

    def step(self, ranks):
        """-> loss, gradient norm, samples, and what does not fit the dump"""
        meta = ranks[0][1]
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(
                self.trained.values(),
                betas=(float(meta["beta1"]), float(meta["beta2"])),
                eps=float(meta["eps"]),
                weight_decay=float(meta["weight_decay"]),
            )
        self.optimizer.param_groups[0]["lr"] = float(meta["lr"])
        self.optimizer.zero_grad()
        total, samples, problems = 0.0, 0, []
        for dump, _ in ranks:
            dump = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in dump.items()}
            each, weight, differences = self.losses(dump, meta)
            problems += differences
            loss = (weight * each).sum() / int(meta["batch"])
            loss.backward()
            total += loss.item()
            samples += len(each)
        clip = float(meta["clip"]) or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), clip).item()
        self.optimizer.step()
        return total, norm, samples, problems

    def losses(self, dump, meta):
        schedule = DDPMScheduler(
            num_train_timesteps=int(meta["timesteps"]),
            beta_start=float(meta["beta_start"]),
            beta_end=float(meta["beta_end"]),
            beta_schedule=meta["beta_schedule"],
            prediction_type=meta["prediction"],
            rescale_betas_zero_snr=meta["zero_terminal_snr"] == "true",
        )
        problems = []
        t = dump["timesteps"]
        worst = (schedule.add_noise(dump["latents"], dump["noise"], t) - dump["noisy"]).abs().max().item()
        if not worst <= 1e-5:
            problems.append(f"noisy latents differ by {worst}")
        if meta["prediction"] == "epsilon":
            target = dump["noise"]
        else:
            target = schedule.get_velocity(dump["latents"], dump["noise"], t)
        each = ((predict(self.unet, dump) - target) ** 2).mean(dim=(1, 2, 3))
        worst = (each.detach() - dump["loss"]).abs().max().item()
        if not worst <= 1e-5:
            problems.append(f"a sample's loss differs by {worst}")
        weight = torch.ones_like(each)
        gamma = float(meta["min_snr_gamma"])
        if gamma > 0:
            alpha = schedule.alphas_cumprod[t]
            snr = alpha / (1 - alpha)
            divisor = snr if meta["prediction"] == "epsilon" else snr + 1
            weight = torch.clamp(snr, max=gamma) / divisor
        return each, weight, problems

    def update(self):
        return torch.cat([(self.trained[n] - self.before[n]).detach().double().flatten() for n in self.trained])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", required=True)
    arguments = parser.parse_args()

    exact, single = (Replay(arguments.before, dtype) for dtype in (torch.float64, torch.float32))
    steps = steps_of(arguments.run)
    if not steps:
        sys.exit(f"{arguments.run}: no dump")
    failed = False
    print("| step | samples | loss (strata) | loss (torch) | difference | grad norm (strata) | grad norm (torch) |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for step, ranks in steps.items():
        meta = ranks[0][1]
        if len(ranks) != int(meta["ranks"]):
            sys.exit(f"step {step}: {len(ranks)} of {meta['ranks']} ranks")
        single.step(ranks)
        loss, norm, samples, problems = exact.step(ranks)
        for problem in problems:
            print(f"step {step}: {problem}")
        ours = float(meta["global_loss"])
        failed |= bool(problems) or not abs(loss - ours) <= 1e-5 or samples != int(meta["batch"])
        print(f"| {step} | {samples} | {ours:.7f} | {loss:.7f} | {abs(loss - ours):.1e} "
              f"| {float(meta['grad_norm']):.6f} | {norm:.6f} |")

    after = dict(UNet2DConditionModel.from_pretrained(arguments.after).named_parameters())
    truth = exact.update()
    made = torch.cat([(after[n].double() - exact.before[n]).detach().flatten() for n in exact.trained])
    error, floor = (((x - truth).norm() / truth.norm()).item() for x in (made, single.update()))
    failed |= not error <= max(1e-4, floor)
    print(f"\nupdate of {truth.numel()} parameters over {len(steps)} steps against float64, relative L2: "
          f"strata {error:.2e}, torch in float32 {floor:.2e}")
    print(json.dumps({"ok": not failed, "update_relative_l2": error, "torch_float32_relative_l2": floor}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
