#!/opt/venv/bin/python
"""Race: whole steps of a U-Net on this machine's cores, ours against PyTorch, in turns.

    perf/peers/unet.py [--model small|sd2] [--turns 5] [--threads 2] [--json FILE]
    perf/peers/unet.py --model sd2 --turns 3 --steps 1     # minutes: 866 M parameters

small: 5.9 M parameters, latents of 16x16, 24 tokens, batch 32. sd2: SD2's real U-Net, 32x32, 77 tokens,
batch 4. Ours is build/host/step_bench in bf16. PyTorch trains (forward, mean squared error, backward,
fused AdamW; ours adds drawing the noise and the norm of the gradient) in fp32, in bf16 (autocast), and
compiled; forward alone (inference mode) has bf16 weights. In a turn ours and each variant run once, one
after the other, each for --steps steps after --warm; a turn's figure is the median of its steps. With
sd2 a variant runs in a process of its own every turn, because memory holds one of the two only.
Printed: seconds a step, median (least-most) over the turns, and ratios theirs/ours turn by turn.
Needs torch and diffusers (written with 2.15, 0.42) and build/host/step_bench.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import race

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = {"small": {"config": "small-unet", "side": 16, "tokens": 24, "batch": 32, "steps": 5,
                    "train": ["fp32", "bf16", "bf16 channels-last", "bf16 compiled"],
                    "forward": ["fp32", "bf16", "bf16 channels-last", "bf16 compiled"]},
          "sd2": {"config": "sd2-unet", "side": 32, "tokens": 77, "batch": 4, "steps": 1,
                  "train": ["bf16"], "forward": ["bf16", "bf16 channels-last"]}}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--ours", default=str(ROOT / "build/host/step_bench"))
parser.add_argument("--model", choices=MODELS, default="small")
parser.add_argument("--work", choices=["train", "forward"], nargs="+", default=["train", "forward"])
parser.add_argument("--variants", nargs="+", help="of PyTorch, instead of the model's own list")
parser.add_argument("--turns", type=int, default=5)
parser.add_argument("--steps", type=int, help="in a turn")
parser.add_argument("--warm", type=int, default=1, help="steps before them")
parser.add_argument("--batch", type=int)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--json", help="a file for all figures")
parser.add_argument("--worker", nargs=2, metavar=("WORK", "VARIANT"), help=argparse.SUPPRESS)


def make_step(work, variant, shape):
    """One step of PyTorch's, as a function."""
    import torch
    from diffusers import UNet2DConditionModel
    torch.manual_seed(17)
    described = json.loads((ROOT / "configs/models" / shape["config"] / "config.json").read_text())
    unet = UNet2DConditionModel.from_config(described)
    if work == "forward" and variant.startswith("bf16"):
        unet = unet.to(torch.bfloat16)
    dtype = next(unet.parameters()).dtype
    x = torch.randn(shape["batch"], 4, shape["side"], shape["side"], dtype=dtype)
    text = torch.randn(shape["batch"], shape["tokens"], described["cross_attention_dim"], dtype=dtype)
    t = torch.full((shape["batch"],), 501)
    if "channels-last" in variant:
        unet, x = unet.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(unet) if "compiled" in variant else unet
    if work == "forward":
        unet.eval()

        @torch.inference_mode()
        def evaluate():
            forward(x, t, text, return_dict=False)
        return evaluate
    unet.train()
    noise = torch.randn_like(x)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.startswith("bf16")):
            prediction = forward(x, t, text, return_dict=False)[0]
        torch.nn.functional.mse_loss(prediction.float(), noise).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def serve(work, variant, shape, arguments):
    """Steps on demand: the answer to a line is the median of their seconds."""
    import torch
    torch.set_num_threads(arguments.threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    step = make_step(work, variant, shape)
    for turn, _ in enumerate(sys.stdin):
        seconds = []
        for _ in range(arguments.warm + arguments.steps + (turn == 0)):
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        answers.write(json.dumps(statistics.median(seconds[-arguments.steps:])) + "\n")
        answers.flush()


def ours(work, shape, arguments):
    command = [arguments.ours, ROOT / "configs/models" / shape["config"] / "config.json",
               "--side", shape["side"], "--tokens", shape["tokens"], "--batch", shape["batch"],
               "--steps", arguments.steps, "--warm", arguments.warm]
    if work == "forward":
        command.append("--forward-only")
    output = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE,
                            env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}).stdout
    return json.loads(output)


def start(work, variant, arguments):
    command = [sys.executable, __file__, "--worker", work, variant, "--model", arguments.model]
    for name in ("steps", "warm", "batch", "threads"):
        command += ["--" + name, getattr(arguments, name)]
    return race.Worker(command, env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)})


def run(work, shape, arguments):
    """All turns of one work."""
    variants = arguments.variants or shape[work]
    alone = arguments.model == "sd2"
    workers = {} if alone else {v: start(work, v, arguments) for v in variants}
    for worker in workers.values():
        worker.ask()  # compiled, warm
    mine, theirs = [], {variant: [] for variant in variants}
    for turn in range(arguments.turns):
        mine.append(ours(work, shape, arguments))
        for variant in variants:
            worker = workers.get(variant) or start(work, variant, arguments)
            theirs[variant].append(worker.ask())
            if alone:
                worker.close()
        print(f"{work}, turn {turn + 1}: ours {mine[-1]['seconds_a_step']:.3f} s, " + ", ".join(
            f"{v} {seconds[-1]:.3f}" for v, seconds in theirs.items()), flush=True)
    for worker in workers.values():
        worker.close()
    seconds = [one["seconds_a_step"] for one in mine]
    flops = mine[0]["FLOPs"] * shape["batch"]
    peak = statistics.median(one["peak_TFLOP/s"] for one in mine) * 1e12

    def figures(taken):
        return {"seconds": race.middle(taken), "images_per_s": shape["batch"] / statistics.median(taken),
                "share_of_peak": flops / statistics.median(taken) / peak}
    result = {"work": work, "peak_TFLOP/s": peak * 1e-12, "ours": figures(seconds),
              "peak_resident_bytes": max(one["peak_resident_bytes"] for one in mine),
              "pytorch": {v: {**figures(t), "ratio": race.ratios(t, seconds)} for v, t in theirs.items()}}
    best = min(result["pytorch"].values(), key=lambda one: one["seconds"]["median"])
    result["ratio_to_best"] = best["ratio"]
    return result


def print_table(result, arguments):
    print(f"\n{result['work']}, {arguments.model}, batch {arguments.batch}, {arguments.threads} threads, "
          f"bf16 peak {result['peak_TFLOP/s']:.3f} TFLOP/s, "
          f"ours {result['peak_resident_bytes'] / 1e9:.2f} GB resident at most")
    print(f"  {'':<22}{'s/step':<24}{'images/s':>9}{'of peak':>9}  theirs/ours")
    for name, one in {"ours": result["ours"], **result["pytorch"]}.items():
        print(f"  {name:<22}{race.said(one['seconds'], 3):<24}{one['images_per_s']:>9.2f}"
              f"{one['share_of_peak']:>9.1%}  " + (race.said(one["ratio"]) if "ratio" in one else ""))


def main():
    arguments = parser.parse_args()
    shape = dict(MODELS[arguments.model])
    shape["batch"] = arguments.batch = arguments.batch or shape["batch"]
    arguments.steps = arguments.steps or shape["steps"]
    if arguments.worker:
        return serve(*arguments.worker, shape, arguments)
    results = [run(work, shape, arguments) for work in arguments.work]
    for result in results:
        print_table(result, arguments)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
