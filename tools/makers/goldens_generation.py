#!/usr/bin/env python3
"""Goldens of text generation, one folder a family under tests/golden/text/generation/.

    tools/makers/goldens_generation.py tests/golden/text/generation data/miniature/encoder

Made with transformers 5.23.0, torch 2.15.0 (CPU), eager attention, f32, greedy. Tests never run
this script. The models are random and small; windows are shorter than the prompts, softcaps bite,
heads are tied, separate and in shards, and end ids come from either file, as number and as list.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

VOCABULARY = 131
LENGTHS = [5, 1, 23, 90, 9, 40, 2, 13, 64, 65, 1, 7, 30, 3, 17, 8, 11, 6]
NEW = 40


def randomise(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = parameter.shape[-1]
            scale = 0.3 if "norm" in name or parameter.dim() == 1 else 1.2 / width ** 0.5
            if "embed" in name:
                scale = 0.1 if "Gemma" in type(model).__name__ else 0.6
            if "q_proj.w" in name or "k_proj.w" in name:
                scale *= 1.8
            values = torch.randn_like(parameter) * scale
            if "norm" in name and "Gemma" not in type(model).__name__:
                values += 1
            parameter.copy_(values.bfloat16().float())


def greedy(model, prompts, stop):
    """New ids of each prompt alone, and the smallest margin between the best two logits."""
    texts, margin = [], float("inf")
    for prompt in prompts:
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                             max_new_tokens=NEW, do_sample=False, eos_token_id=stop or None,
                             pad_token_id=0, output_logits=True, return_dict_in_generate=True)
        new = out.sequences[0, len(prompt):].tolist()
        for logits in out.logits:
            best = logits[0].topk(2).values
            margin = min(margin, (best[0] - best[1]).item())
        texts.append([i for i in new if i not in stop])
    return texts, margin


def ragged(texts):
    return (torch.tensor(sum(texts, []), dtype=torch.int64),
            torch.tensor([0] + [len(t) for t in texts]).cumsum(0))


def write(out, name, model, stop, config_stop=None, generation_stop=None, shards=1):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model = model.eval()
    randomise(model)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]
    tensors = {k: v.bfloat16().contiguous().clone() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            save_file({k: tensors[k] for k in names[i::shards]}, folder / file)
            weight_map.update({k: file for k in names[i::shards]})
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")
    config = json.loads(model.config.to_json_string(use_diff=False))
    for key in ("_name_or_path", "id2label", "label2id", "chunk_size_feed_forward", "problem_type",
                "return_dict", "output_attentions", "output_hidden_states", "eos_token_id"):
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    if config_stop is not None:
        config["eos_token_id"] = config_stop
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    if generation_stop is not None:
        (folder / "generation_config.json").write_text(
            json.dumps({"eos_token_id": generation_stop}) + "\n")
    texts, margin = greedy(model, prompts, stop)
    ids, offsets = ragged(prompts)
    output_ids, output_offsets = ragged(texts)
    save_file({"input_ids": ids, "input_offsets": offsets, "output_ids": output_ids,
               "offsets": output_offsets}, folder / "texts.safetensors")
    print(f"{name:10} margin {margin:.1e}  lengths {[len(t) for t in texts]}  "
          f"different ids {len(set(sum(texts, [])))}")


def main():
    out, miniature = pathlib.Path(sys.argv[1]), sys.argv[2]
    torch.manual_seed(11)
    small = {"vocab_size": VOCABULARY, "intermediate_size": 72, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
             "attn_implementation": "eager"}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    # A separate head in shards; a list of end ids in generation_config.json, which wins.
    write(out, "llama", LlamaForCausalLM(LlamaConfig(
        **small, hidden_size=40, head_dim=16, rms_norm_eps=1e-5, attention_bias=True,
        rope_parameters=rope, tie_word_embeddings=False)), [7, 50, 90], 3, [7, 50, 90], shards=2)
    # A window that most prompts and all long texts go past; one end id.
    write(out, "mistral", MistralForCausalLM(MistralConfig(
        **small, hidden_size=48, sliding_window=12, rms_norm_eps=1e-5, rope_parameters=rope,
        tie_word_embeddings=False)), [40], 40)
    # Tied, a window in the later layers that is longer than a page; no end at all.
    write(out, "qwen2", Qwen2ForCausalLM(Qwen2Config(
        **small, hidden_size=48, use_sliding_window=True, sliding_window=70, max_window_layers=1,
        rope_parameters=rope, tie_word_embeddings=True)), [])
    # Tied, softcaps, windows in layers 0 and 2; the end from config.json as a list.
    write(out, "gemma2", Gemma2ForCausalLM(Gemma2Config(
        **{**small, "num_hidden_layers": 4}, hidden_size=40, head_dim=12, query_pre_attn_scalar=20,
        attn_logit_softcapping=3.0, final_logit_softcapping=1.0, sliding_window=6,
        rope_parameters=rope)), [60, 61], [60, 61])
    # The miniature study's own model.
    model = AutoModelForCausalLM.from_pretrained(miniature, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(4)
    prompts = [[0] + torch.randint(2, 385, (n,), generator=generator).tolist()
               for n in (0, 4, 12, 70)]
    texts, margin = greedy(model, prompts, [1])
    ids, offsets = ragged(prompts)
    output_ids, output_offsets = ragged(texts)
    save_file({"input_ids": ids, "input_offsets": offsets, "output_ids": output_ids,
               "offsets": output_offsets}, out / "miniature.safetensors")
    print(f"miniature  margin {margin:.1e}  lengths {[len(t) for t in texts]}")


main()
