#!/usr/bin/env python3
"""Race on one GPU: SD2's real U-Net and a 7B text layer, ours against PyTorch, one after the other.

    perf/peers/gpu.py [--ours build/cuda/gpu_step_bench] [--filter train] [--quick]

Ours is gpu_step_bench, which plays CUDA graphs. PyTorch does the same work in bf16, channels last:
training (forward, mean squared error, backward, fused AdamW) eager and with torch.compile, with bf16
weights and with fp32 weights under autocast; sampling with torch.compile (mode reduce-overhead, which
is CUDA graphs); the text layer of transformers, compiled, its captions padded and sorted. Printed is
one JSON document: for each case our figure, PyTorch's by variant, and the ratio to its best.
Needs torch and diffusers, for the text layer transformers (written with 2.15, 0.42, 5.23).
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = 77

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--ours", default=str(ROOT / "build/cuda/gpu_step_bench"))
parser.add_argument("--config", default=str(ROOT / "configs/models/sd2-unet/config.json"))
parser.add_argument("--filter", default="", help="only cases whose name holds this")
parser.add_argument("--quick", action="store_true", help="no torch.compile of training")


def seconds_of(work, times):
    import torch
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def make_unet(config, dtype):
    import torch
    from diffusers import UNet2DConditionModel
    torch.manual_seed(17)
    described = json.loads(pathlib.Path(config).read_text())
    unet = UNet2DConditionModel.from_config(described)
    return unet.to("cuda", dtype).to(memory_format=torch.channels_last)


def inputs(rows, side, dtype):
    import torch
    x = torch.randn(rows, 4, side, side, device="cuda", dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    text = torch.randn(rows, TOKENS, 1024, device="cuda", dtype=dtype)
    return x, torch.full((rows,), 501, device="cuda"), text


def train(config, side, batch, weights, compiled):
    """Images a second of whole steps."""
    import torch
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    unet = make_unet(config, dtype)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(unet) if compiled else unet
    x, t, text = inputs(batch, side, dtype)
    noise = torch.randn_like(x)

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=weights == "fp32"):
            prediction = forward(x, t, text, return_dict=False)[0]
        torch.nn.functional.mse_loss(prediction.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), float("inf"))  # ours has its norm, too
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return batch / seconds_of(step, 10 if batch > 1 else 40)


def sample(config, side, rows, compiled):
    """Evaluations of all rows a second."""
    import torch
    unet = make_unet(config, torch.bfloat16).eval()
    forward = torch.compile(unet, mode="reduce-overhead") if compiled else unet
    x, t, text = inputs(rows, side, torch.bfloat16)
    text[: rows // 2] = 0
    with torch.inference_mode():
        return 1 / seconds_of(lambda: forward(x, t, text, return_dict=False)[0], 50)


def encode(compiled):
    """Real tokens a second of 32 such layers."""
    import torch
    from transformers import MistralConfig, MistralModel
    torch.manual_seed(17)
    model = MistralModel(MistralConfig(vocab_size=1000, num_hidden_layers=1))
    model = model.to("cuda", torch.bfloat16).eval()
    forward = torch.compile(model) if compiled else model
    generator = random.Random(17)
    lengths = sorted(generator.randint(5, 200) for _ in range(160))
    batches = []
    for i in range(0, len(lengths), 32):
        part = lengths[i:i + 32]
        ids = torch.zeros(32, part[-1], dtype=torch.int64, device="cuda")
        mask = torch.tensor([[j < n for j in range(part[-1])] for n in part], device="cuda")
        batches.append((ids, mask.long()))

    def work():
        for ids, mask in batches:
            forward(input_ids=ids, attention_mask=mask)

    with torch.inference_mode():
        return sum(lengths) / seconds_of(work, 10) / 32


def peers_of(name, arguments):
    """Figures of PyTorch's variants of one of our cases, and which of our figures they are."""
    words = name.split()
    compiled = [False] if arguments.quick else [False, True]
    if words[0] == "train":
        side, batch = int(words[1].split("x")[0]), int(words[3])
        return "images_per_s", {
            f"{weights} weights{', compiled' if c else ''}":
                (lambda weights=weights, c=c: train(arguments.config, side, batch, weights, c))
            for weights in ("fp32", "bf16") for c in compiled}
    if words[0] == "sample":
        side, rows = int(words[1].split("x")[0]), int(words[3])
        return "iterations_per_s", {
            "compiled" if c else "eager": (lambda c=c: sample(arguments.config, side, rows, c))
            for c in (False, True)}
    return "tokens_per_s_of_32_layers", {
        "compiled" if c else "eager": (lambda c=c: encode(c)) for c in (False, True)}


def main():
    arguments = parser.parse_args()
    import torch
    if not torch.cuda.is_available():
        sys.exit("gpu.py: error: PyTorch sees no GPU")
    ran = subprocess.run([arguments.ours, arguments.config, arguments.filter], stdout=subprocess.PIPE)
    if ran.returncode not in (0, 1):  # 1: some cases failed, and say why
        sys.exit(f"gpu.py: error: {arguments.ours}: exit {ran.returncode}")
    ours = json.loads(ran.stdout)
    report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cases": []}
    for case in ours:
        if "error" in case or "skipped" in case:
            report["cases"].append(case)
            continue
        figure, variants = peers_of(case["name"], arguments)
        entry = {"name": case["name"], "unit": figure, "ours": case[figure], "pytorch": {}}
        for variant, measure in variants.items():
            try:
                entry["pytorch"][variant] = measure()
            except torch.cuda.OutOfMemoryError:
                entry["pytorch"][variant] = None
            torch._dynamo.reset()
            torch.cuda.empty_cache()
        best = max((v for v in entry["pytorch"].values() if v), default=None)
        entry["ratio_to_best"] = entry["ours"] / best if best else None
        report["cases"].append(entry)
        print(f"{entry['name']}: {entry['ours']:.4g} {figure}, PyTorch {best}", file=sys.stderr)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
