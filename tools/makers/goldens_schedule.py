#!/usr/bin/env python3
"""Goldens of the noise schedule: tests/golden/schedule/schedule.json.

Made with torch 2.15 and diffusers 0.42: python tools/makers/goldens_schedule.py
Values are the exact f32 bits (as integers), so that the test can ask for equality.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

TIMESTEPS = [0, 1, 2, 10, 100, 250, 499, 500, 501, 750, 998, 999]


def bits(x):
    return np.asarray(x, dtype=np.float32).view(np.uint32).tolist()


def case(beta_schedule, start, end, prediction, zero_terminal_snr=False):
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=start,
        beta_end=end,
        beta_schedule=beta_schedule,
        prediction_type=prediction,
        clip_sample=False,
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    t = torch.tensor(TIMESTEPS)
    one, zero = torch.ones(len(TIMESTEPS)), torch.zeros(len(TIMESTEPS))
    if prediction == "epsilon":
        target_signal, target_noise = zero, one
    else:
        target_signal = scheduler.get_velocity(one, zero, t)
        target_noise = scheduler.get_velocity(zero, one, t)
    # The loss weights of diffusers' examples/text_to_image/train_text_to_image.py.
    snr = compute_snr(scheduler, t)
    weight = torch.stack([snr, torch.full_like(snr, 5.0)], dim=1).min(dim=1)[0]
    weight = weight / (snr if prediction == "epsilon" else snr + 1)
    return {
        "beta_schedule": beta_schedule,
        "beta_start": start,
        "beta_end": end,
        "prediction": prediction,
        "zero_terminal_snr": zero_terminal_snr,
        "betas": bits(scheduler.betas[t]),
        "alphas_cumprod": bits(scheduler.alphas_cumprod[t]),
        "all_alphas_cumprod_sum": float(scheduler.alphas_cumprod.double().sum()),
        "signal": bits(scheduler.add_noise(one, zero, t)),
        "noise": bits(scheduler.add_noise(zero, one, t)),
        "target_signal": bits(target_signal),
        "target_noise": bits(target_noise),
        "min_snr_5": weight.tolist(),
    }


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    out = root / "tests/golden/schedule/schedule.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    cases = [
        case("scaled_linear", 0.00085, 0.012, "epsilon"),
        case("scaled_linear", 0.00085, 0.012, "v_prediction"),
        case("linear", 0.0001, 0.02, "epsilon"),
        case("squaredcos_cap_v2", 0.0001, 0.02, "v_prediction"),
        case("scaled_linear", 0.00085, 0.012, "v_prediction", zero_terminal_snr=True),
    ]
    out.write_text(json.dumps({"timesteps": TIMESTEPS, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
