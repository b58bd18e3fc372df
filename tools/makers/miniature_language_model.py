#!/usr/bin/env python3
"""Trains the miniature study's language model (Llama layout, byte-level BPE) on world captions.

    tools/makers/miniature_language_model.py --world ./world --out data/miniature/encoder

(`world` as in miniature_vae.py.) A document is `<s> caption </s>`. Beside the next token, the state
at `</s>` learns through a head that is thrown away to say the caption again, word by word: so the
pooled embedding, the last token's state, means something.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LLAMA_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
MAX_TOKENS = 16


def dump_captions(world, seed, count):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([world, "dump", str(seed), str(count), folder + "/w"], check=True)
        return pathlib.Path(folder + "/w.txt").read_text().splitlines()


def train_tokenizer(captions):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(captions, trainers.BpeTrainer(
        vocab_size=1000, min_frequency=2, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    ends = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> <s> $B </s>",
                                      special_tokens=ends)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   model_max_length=256)


def make_model(vocabulary):
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=320, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)  # layer 0 in step with the rest
    return model


def encode(tokenizer, captions):
    """(N, MAX_TOKENS) ids, padded with -100."""
    ids = torch.full((len(captions), MAX_TOKENS), -100)
    for row, line in zip(ids, tokenizer(captions)["input_ids"]):
        row[:len(line)] = torch.tensor(line)
    return ids


def losses(model, recall, ids):
    """Next token in nats; and the caption said again from the last token's state."""
    state = model.model(ids.clamp(min=0)).last_hidden_state
    logits = model.lm_head(state[:, :-1])
    said = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    last = (ids >= 0).sum(1) - 1
    again = recall(state[torch.arange(len(ids)), last]).view(len(ids), MAX_TOKENS, -1)
    return said, functional.cross_entropy(again.flatten(0, 1), ids.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True, help="the compiled miniature_world")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(17)

    captions = dump_captions(args.world, 11, 60000)
    tokenizer = train_tokenizer(captions)
    ids = encode(tokenizer, captions)
    held_out = encode(tokenizer, dump_captions(args.world, 12, 1000))
    model = make_model(len(tokenizer))
    recall = torch.nn.Linear(128, MAX_TOKENS * len(tokenizer), bias=False)
    parameters = [*model.parameters(), *recall.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    print(f"{model.num_parameters()} parameters, {len(tokenizer)} tokens")

    start = time.time()
    for step in range(args.steps):
        decay = 0.02 + 0.49 * (1 + np.cos(np.pi * step / args.steps))
        rate = 2e-3 * min(1, (step + 1) / 50) * decay
        for group in optimizer.param_groups:
            group["lr"] = rate
        said, again = losses(model, recall, ids[torch.randint(len(ids), (args.batch,))])
        optimizer.zero_grad(set_to_none=True)
        (said + 0.3 * again).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            with torch.no_grad():
                said, again = losses(model, recall, held_out)
            print(f"step {step + 1} {time.time() - start:.0f} s: {said:.4f} nats a token, "
                  f"recall {again:.4f}", flush=True)

    out = pathlib.Path(args.out)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["rope_theta"] = 10000.0  # where older readers look for it
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
