#!/usr/bin/env python3
"""Two ranks on a core each against one rank on one core: a 5.9 M-parameter U-Net, 16 x 16 latents, 24 tokens.

    perf/train/weak_scaling.py [--turns 5] [--steps 12] [--batch 32] [--set table.key=value ...]

Each turn runs, one after the other: one rank on either core (their mean counts, because cores differ); two
jobs of one rank at the same time, which know nothing of each other (what two cores lose to the memory that
they share); two ranks. Prints medians over the turns with
the least and the most: seconds a step of a rank's batch, efficiency, and how long the passes waited for the
other rank (comm_s of metrics.jsonl). Each job is bound to its cores and has one thread a rank.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": [4, 8, 8],
    "block_out_channels": [64, 128, 128], "cross_attention_dim": 128,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32, "sample_size": 16,
    "transformer_layers_per_block": 1, "use_linear_projection": True,
}
WARM_UP = 3  # steps


class Jobs:
    def __init__(self, arguments, folder):
        self.arguments, self.folder, self.count = arguments, folder, 0
        (folder / "unet.json").write_text(json.dumps(UNET))
        subprocess.run([arguments.build / "random_caches", folder, "256", "128", "24", "24", "16"], check=True)

    def start(self, cores):
        a, ranks = self.arguments, len(cores)
        self.count += 1
        run = self.folder / f"run-{self.count}"
        settings = {
            "data.latents": self.folder / "latents", "data.text": self.folder / "text",
            "model.unet": self.folder / "unet.json", "output.dir": run, "train.batch": a.batch * ranks,
            "train.microbatch": a.batch, "train.steps": a.steps, "train.log_every": 1, "train.threads": 1,
            "train.checkpoint_every": 0, "train.warmup": 0,
        }
        (self.folder / "empty.toml").touch()
        command = ["taskset", "-c", ",".join(map(str, cores))]
        if ranks > 1:
            command += ["mpirun", "--allow-run-as-root", "-np", str(ranks), "--bind-to", "core"]
        command += [a.build / "strata", "train", "--config", self.folder / "empty.toml"]
        for assignment in [f"{key}={value}" for key, value in settings.items()] + a.set:
            command += ["--set", assignment]
        return run, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def finish(job):
        """Mean seconds of a step, and of them the passes' wait for other ranks."""
        run, process = job
        errors = process.communicate()[1]
        if process.returncode != 0:
            sys.exit(errors[-2000:])
        records = [json.loads(line) for line in (run / "metrics.jsonl").open()][WARM_UP:]
        return [statistics.fmean(record[key] for record in records) for key in ("step_s", "comm_s")]


def spread(values, unit="", scale=1.0):
    values = [scale * value for value in values]
    return f"{statistics.median(values):8.2f}{unit} ({min(values):.2f}..{max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/host"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32, help="a rank")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    parser.add_argument("--set", action="append", default=[], metavar="table.key=value")
    arguments = parser.parse_args()
    first, second = arguments.cores

    alone, apart, together, exposed = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs(arguments, pathlib.Path(folder))
        for _ in range(arguments.turns):
            alone.append(statistics.fmean(jobs.finish(jobs.start([core]))[0] for core in arguments.cores))
            pair = [jobs.start([first]), jobs.start([second])]
            apart.append(statistics.fmean(jobs.finish(job)[0] for job in pair))
            step, waited = jobs.finish(jobs.start([first, second]))
            together.append(step)
            exposed.append(waited / step)

    print(f"1 rank                    {spread(alone, ' ms', 1e3)} a step")
    print(f"2 jobs of 1 rank at once  {spread(apart, ' ms', 1e3)} a step")
    print(f"2 ranks                   {spread(together, ' ms', 1e3)} a step")
    print(f"efficiency, against 1 rank            {spread([a / b for a, b in zip(alone, together)], ' %', 100)}")
    print(f"efficiency, against 2 jobs at once    {spread([a / b for a, b in zip(apart, together)], ' %', 100)}")
    print(f"exposed communication of a step       {spread(exposed, ' %', 100)}")


if __name__ == "__main__":
    main()
