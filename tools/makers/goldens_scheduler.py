"""Trajectories of diffusers' schedulers for tests/golden/scheduler/.

Run: python3 tools/makers/goldens_scheduler.py tests/golden/scheduler
Made with diffusers 0.42, torch 2.15, safetensors 0.6 or newer, numpy 2.

cases.json holds a list of {name, sampler, steps, config}: config is the scheduler_config.json.
trajectories.safetensors holds NAME.sample (...), NAME.model_output (steps, ...), NAME.timesteps (steps),
NAME.initial_sigma () and NAME.trajectory (steps + 1, ...).
"""

import json
import pathlib
import sys

import numpy
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from safetensors.torch import save_file

CLASSES = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
BETAS = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
# Every file is read by every sampler: Euler and DPM-Solver++ leave DDIM's two keys aside.
SD2 = dict(BETAS, clip_sample=False, set_alpha_to_one=False)
V = dict(prediction_type="v_prediction")
TRAINED = [float(b) for b in numpy.linspace(0.001, 0.3, 40) ** 1.5]

# 50 steps of every sampler for both offsets and both predictions; in leading spacing, where the offset counts.
CASES = [(f"{sampler}_offset{offset}_{prediction}", sampler, 50,
          dict(SD2, timestep_spacing="leading", steps_offset=offset, prediction_type=prediction))
         for sampler in CLASSES for offset in (0, 1) for prediction in ("epsilon", "v_prediction")]
# What all three know.
CASES += [(f"{sampler}_{name}", sampler, steps, config) for sampler in CLASSES for name, steps, config in [
    ("class_defaults", 12, {}),
    ("trailing", 50, dict(BETAS, timestep_spacing="trailing")),
    ("linspace", 50, dict(BETAS, timestep_spacing="linspace")),
    ("one_step", 1, dict(BETAS, timestep_spacing="trailing")),
    ("two_steps", 2, BETAS),
    ("seven_steps", 7, dict(BETAS, timestep_spacing="trailing", **V)),
    ("thousand_steps", 1000, dict(BETAS, timestep_spacing="trailing")),
    ("sample_prediction", 9, dict(BETAS, prediction_type="sample")),
    ("cosine", 20, dict(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", **V)),
    ("zero_terminal_snr", 20, dict(BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing", **V)),
    ("trained_betas", 8, dict(trained_betas=TRAINED, num_train_timesteps=40)),
    ("few_timesteps", 13, dict(num_train_timesteps=100, beta_start=0.001, beta_end=0.08)),
]]
CASES += [(f"{sampler}_{name}", sampler, steps, config) for sampler in ("euler", "dpmpp_2m") for name, steps, config in [
    ("karras", 50, dict(BETAS, use_karras_sigmas=True)),
    ("karras_trailing_v", 10, dict(BETAS, use_karras_sigmas=True, timestep_spacing="trailing", **V)),
    ("exponential", 15, dict(BETAS, use_exponential_sigmas=True)),
    ("sigma_min", 11, dict(BETAS, final_sigmas_type="sigma_min")),
    ("many_linspace", 250, dict(BETAS)),
]]
CASES += [
    ("ddim_clipped", "ddim", 6, dict(BETAS, clip_sample_range=0.7)),
    ("ddim_offset_of_linspace", "ddim", 9, dict(SD2, timestep_spacing="linspace", steps_offset=1)),
    ("euler_karras_ends", "euler", 8, dict(BETAS, use_karras_sigmas=True, sigma_min=0.1, sigma_max=9.0)),
    ("euler_log_linear", "euler", 8, dict(BETAS, interpolation_type="log_linear")),
    ("euler_continuous", "euler", 8, dict(BETAS, timestep_type="continuous", **V)),
    ("euler_original_sample", "euler", 8, dict(BETAS, prediction_type="original_sample")),
    ("dpmpp_2m_lu", "dpmpp_2m", 20, dict(BETAS, use_lu_lambdas=True)),
    ("dpmpp_2m_karras_cosine", "dpmpp_2m", 2, dict(num_train_timesteps=30, beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True)),
    ("dpmpp_2m_heun", "dpmpp_2m", 10, dict(BETAS, solver_type="heun")),
    ("dpmpp_2m_first_order", "dpmpp_2m", 10, dict(BETAS, solver_order=1)),
    ("dpmpp_2m_no_lower_order", "dpmpp_2m", 10,
     dict(BETAS, lower_order_final=False, final_sigmas_type="sigma_min")),
    ("dpmpp_2m_lower_order", "dpmpp_2m", 14, dict(BETAS, final_sigmas_type="sigma_min")),
    ("dpmpp_2m_fifteen_steps", "dpmpp_2m", 15, dict(BETAS, final_sigmas_type="sigma_min")),
    ("dpmpp_2m_euler_at_final", "dpmpp_2m", 20, dict(BETAS, euler_at_final=True, final_sigmas_type="sigma_min")),
    ("dpmpp_2m_clipped_lambda", "dpmpp_2m", 20, dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)),
]


def trajectory(scheduler, x, outputs):
    points = [x]
    for t, output in zip(scheduler.timesteps, outputs):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x).prev_sample
        points.append(x)
    return torch.stack(points)


def main(out: pathlib.Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    cases, tensors = [], {}
    for number, (name, sampler, steps, config) in enumerate(CASES):
        generator = torch.Generator().manual_seed(number)
        scheduler = CLASSES[sampler].from_config(config)
        scheduler.set_timesteps(steps)
        assert len(scheduler.timesteps) == steps, name
        shape = (2, 3) if steps < 1000 else (2,)
        initial = torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32).clone()
        x = torch.randn(shape, generator=generator) * initial
        outputs = torch.randn(steps, *shape, generator=generator)
        points = trajectory(scheduler, x, outputs)
        assert points.isfinite().all(), name
        tensors |= {f"{name}.sample": x, f"{name}.model_output": outputs, f"{name}.initial_sigma": initial,
                    f"{name}.timesteps": scheduler.timesteps.to(torch.float32), f"{name}.trajectory": points}
        cases.append({"name": name, "sampler": sampler, "steps": steps, "config": config})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (out / "cases.json").write_text(f"[\n{lines}\n]\n")
    save_file(tensors, out / "trajectories.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
