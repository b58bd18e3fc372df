"""Trajectories of diffusers' DDIM scheduler for tests/golden/scheduler/.

Run: python3 tools/makers/goldens_scheduler.py tests/golden/scheduler
Made with diffusers 0.42, torch 2.15, safetensors 0.6 or newer, numpy 2.

Each case NAME has NAME/scheduler_config.json and NAME.safetensors with `sample`, `model_output`
(steps, ...), `timesteps`, `trajectory` (steps + 1, ...); the number of steps is the first extent.
"""

import json
import pathlib
import sys

import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file

SD2 = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
           beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
CASES = {
    "recipe": (dict(SD2, steps_offset=0), 50),
    "sd2_offset": (dict(SD2, steps_offset=1), 20),
    "v_prediction": (dict(SD2, prediction_type="v_prediction"), 10),
    "trailing": (dict(SD2, timestep_spacing="trailing", set_alpha_to_one=True), 7),
    "linspace": (dict(SD2, timestep_spacing="linspace"), 9),
    "class_defaults": ({}, 12),
}


def main(out: pathlib.Path) -> None:
    for number, (name, (config, steps)) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(number)
        scheduler = DDIMScheduler(**config)
        scheduler.set_timesteps(steps)
        x = torch.randn(2, 4, 4, 4, generator=generator)
        outputs = torch.randn(steps, *x.shape, generator=generator)
        trajectory = [x]
        for t, output in zip(scheduler.timesteps, outputs):
            x = scheduler.step(output, t, x, eta=0.0).prev_sample
            trajectory.append(x)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"_class_name": "DDIMScheduler", **config}, indent=2)
        (folder / "scheduler_config.json").write_text(text + "\n")
        save_file({"sample": trajectory[0], "model_output": outputs,
                   "timesteps": scheduler.timesteps.to(torch.float32),
                   "trajectory": torch.stack(trajectory)}, out / f"{name}.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
