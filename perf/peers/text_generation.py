#!/usr/bin/env python3
"""Tokens a second of `strata eval generate` and of transformers' generate, in one run.

    perf/peers/text_generation.py [--strata build/host/strata] [--threads 2] [--new 96]

A random Llama of 512 x 8 layers (vocabulary 32,000), greedy, no end token, prompts of 32 tokens.
Both sides: the time of `new` tokens less the time of one, so that loading and the prompts do not
count; the two take turns, each figure is the best of the rounds. Made for transformers 5.23.0,
torch 2.15.0 (CPU).
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, PROMPT = 32000, 32


def letter(token):
    """A character for every id, so that the tokenizer splits a text into the ids meant."""
    return chr(0x10000 + token)


def write_model(folder):
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1376, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})).eval().bfloat16()
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text("{}\n")
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], **dict.fromkeys(parts),
        "model": {"type": "BPE", "merges": [],
                  "vocab": {letter(i): i for i in range(VOCABULARY)}}}))
    return model


def strata_seconds(arguments, folder, batch, precision, new):
    command = [arguments.strata, "eval", "generate", "--model", folder, "--input",
               folder / f"prompts-{batch}.txt", "--output", folder / "out.safetensors",
               "--max-new-tokens", str(new), "--batch", str(batch), "--precision", precision]
    begin = time.perf_counter()
    subprocess.run(command, check=True,
                   env={**os.environ, "OMP_NUM_THREADS": str(arguments.threads)})
    return time.perf_counter() - begin


def peer_seconds(model, ids, new):
    begin = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                             do_sample=False, pad_token_id=0)
    assert out.shape[1] == ids.shape[1] + new
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--strata", default="build/host/strata")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = write_model(folder)
        print(f"{'batch':>5} {'precision':>9} {'strata':>10} {'transformers':>13} {'ratio':>6}  (tokens/s)")
        for precision in arguments.precisions:
            model = model.float() if precision == "fp32" else model.bfloat16()
            for batch in arguments.batches:
                ids = torch.randint(0, VOCABULARY, (batch, PROMPT))
                (folder / f"prompts-{batch}.txt").write_text(
                    "".join("".join(map(letter, row)) + "\n" for row in ids.tolist()))
                ours, theirs = [], []
                for _ in range(arguments.rounds):
                    ours.append([strata_seconds(arguments, folder, batch, precision, n)
                                 for n in (1, arguments.new)])
                    theirs.append([peer_seconds(model, ids, n) for n in (1, arguments.new)])
                speed = [batch * (arguments.new - 1) / (min(b for _, b in t) - min(a for a, _ in t))
                         for t in (ours, theirs)]
                print(f"{batch:5} {precision:>9} {speed[0]:10.1f} {speed[1]:13.1f} "
                      f"{speed[0] / speed[1]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
