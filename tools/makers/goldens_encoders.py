#!/usr/bin/env python3
"""Goldens of the text models, one folder a family under tests/golden/text/encoders/.

    tools/makers/goldens_encoders.py tests/golden/text/encoders

Made with transformers 5.23.0, torch 2.15.0 (CPU), eager attention. Tests never run this script.
Each model is random and so small that what is peculiar to its family shows: windows shorter than
the texts, scores that reach the softcap, heads * head width unlike the width, T5's last bucket.
"""
import copy
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, Gemma2Config,
                          Gemma2Model, LlamaConfig, LlamaModel, MistralConfig, MistralModel,
                          Qwen2Config, Qwen2Model, T5Config, T5EncoderModel)

LENGTHS = [9, 1, 40, 0, 17]
VOCABULARY = 131


def rope(theta, **scaling):
    return {"rope_type": scaling.pop("rope_type", "default"), "rope_theta": theta, **scaling}


def randomise(model, scores):
    """Weights of which nothing is near a default, the same in f32, bf16 and f16. scores: how much
    larger queries and keys are, so that attention is not flat."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = parameter.shape[-1]
            scale = 0.3 if "norm" in name or parameter.dim() == 1 else 1.2 / width ** 0.5
            if "embed" in name or "shared" in name or "relative" in name:
                scale = 0.6
            if any(part in name for part in ("q_proj.w", "k_proj.w", ".q.w", ".k.w")):
                scale *= scores
            values = torch.randn_like(parameter) * scale
            if "norm" in name and name.endswith("weight") and not isinstance(model, Gemma2Model):
                values += 1
            parameter.copy_(values.bfloat16().half().float())


def states(model, rows):
    out = model(rows, output_hidden_states=True)
    return torch.cat((*out.hidden_states[:-1], out.last_hidden_state)), out


def texts(generator):
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]


def config_json(config, drop=(), **also):
    description = json.loads(config.to_json_string(use_diff=False))
    for key in (*drop, "_name_or_path", "id2label", "label2id", "chunk_size_feed_forward",
                "problem_type", "return_dict", "output_attentions", "output_hidden_states"):
        description.pop(key, None)
    description.update(also)
    return json.dumps(description, indent=1, sort_keys=True) + "\n"


def write(out, name, model, ids, stored, prefix="", shards=1, scores=1.0, config_text=None,
          pooled=None, bidirectional=False, rename=lambda key: key):
    folder = out / name
    folder.mkdir(exist_ok=True)
    model = model.eval()
    randomise(model, scores)
    tensors = {prefix + rename(key): value.to(stored).contiguous().clone()
               for key, value in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names, weight_map = list(tensors), {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {key: tensors[key] for key in names[i::shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map.update({key: file for key in part})
        index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                 "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "config.json").write_text(config_text or config_json(model.config))

    half = copy.deepcopy(model).bfloat16()
    if hasattr(model, "rotary_emb"):  # from_pretrained keeps its frequencies in f32
        half.rotary_emb = copy.deepcopy(model.rotary_emb)
    exact, rough, both, single = [], [], [], []
    config = copy.deepcopy(model.config)
    with torch.no_grad():
        for row in filter(None, ids):
            rows = torch.tensor([row])
            layers, output = states(model, rows)
            exact.append(layers)
            rough.append(states(half, rows)[0].float())
            if pooled:
                single.append(pooled(output))
            if bidirectional:
                model.config.is_causal = False
                both.append(model(rows).last_hidden_state)
                model.config.is_causal = True
    model.config = config
    layers, rough = torch.cat(exact, 1), torch.cat(rough, 1)
    error = (rough - layers).flatten(1).norm(dim=1) / layers.flatten(1).norm(dim=1)
    offsets = torch.tensor([0] + [len(row) for row in ids]).cumsum(0)
    golden = {"input_ids": torch.tensor(sum(ids, [])), "offsets": offsets,
              "layers": layers.contiguous(), "bf16_error": error}
    if pooled:
        golden["pooled"] = torch.cat(single).contiguous()
    if bidirectional:
        golden["bidirectional_last"] = torch.cat(both, 1)[0].contiguous()
    save_file(golden, folder / "states.safetensors")
    print(f"{name:16} bf16 error by layer:", " ".join(f"{e:.1e}" for e in error.tolist()))


def decoders(out, ids):
    eager = {"attn_implementation": "eager"}
    small = {"vocab_size": VOCABULARY, "intermediate_size": 72, "num_hidden_layers": 3,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    # Llama 3.1's frequencies; no prefix; f16.
    config = LlamaConfig(**small, hidden_size=40, head_dim=16, rms_norm_eps=1e-5, mlp_bias=True,
                         attention_bias=True,
                         rope_parameters=rope(500.0, rope_type="llama3", factor=8.0,
                                              low_freq_factor=1.0, high_freq_factor=4.0,
                                              original_max_position_embeddings=32), **eager)
    write(out, "llama3", LlamaModel(config), ids, torch.float16, scores=1.5)
    # A window of 5; bf16 shards; keys of transformers 4.
    config = MistralConfig(**small, hidden_size=48, sliding_window=5, rms_norm_eps=1e-5,
                           rope_parameters=rope(10000.0), **eager)
    old = config_json(config, drop=("rope_parameters", "head_dim", "dtype"), rope_theta=10000.0,
                      torch_dtype="bfloat16")
    write(out, "mistral", MistralModel(config), ids, torch.bfloat16, "model.", shards=3,
          scores=1.5, config_text=old)
    # Biases on q, k, v; a window in the later layers; both directions; f32.
    config = Qwen2Config(**small, hidden_size=48, use_sliding_window=True, sliding_window=7,
                         max_window_layers=1, rope_parameters=rope(1e6), tie_word_embeddings=True,
                         **eager)
    write(out, "qwen2", Qwen2Model(config), ids, torch.float32, scores=1.5, bidirectional=True)
    # Scores up to several times the softcap, windows in layers 0 and 2; keys of transformers 4.
    config = Gemma2Config(**{**small, "num_hidden_layers": 4}, hidden_size=40, head_dim=12,
                          query_pre_attn_scalar=20, attn_logit_softcapping=3.0, sliding_window=6,
                          rope_parameters=rope(10000.0), **eager)
    old = config_json(config, drop=("rope_parameters", "layer_types", "dtype"), rope_theta=10000.0,
                      hidden_act="gelu_pytorch_tanh", torch_dtype="float32")
    write(out, "gemma2", Gemma2Model(config), ids, torch.bfloat16, "model.", scores=2.0,
          config_text=old)


def t5(out, ids):
    longest = torch.randint(3, VOCABULARY, (150,), generator=torch.Generator().manual_seed(5))
    long_ids = ids + [longest.tolist()]
    small = {"vocab_size": VOCABULARY, "d_model": 40, "d_kv": 12, "d_ff": 72, "num_heads": 4,
             "attn_implementation": "eager"}
    model = T5EncoderModel(T5Config(**small, num_layers=3, feed_forward_proj="gated-gelu"))
    write(out, "t5", model, long_ids, torch.float32, scores=0.5)
    # T5 v1.0: relu without gate; other buckets; no prefix.
    model = T5EncoderModel(T5Config(**small, num_layers=2, feed_forward_proj="relu",
                                    relative_attention_num_buckets=8,
                                    relative_attention_max_distance=20))
    write(out, "t5_relu", model, ids, torch.bfloat16, scores=0.5,
          rename=lambda key: key.removeprefix("encoder.").replace("shared.", "embed_tokens."))


def clip(out, ids):
    begin, end = 2, 77  # the end is not the largest id, and one text has it in its middle
    own = [[begin] + [i for i in row if i != end][:36] + [end] for row in ids]
    own[2][10] = end
    small = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96,
             "num_attention_heads": 4, "max_position_embeddings": 40, "bos_token_id": begin,
             "eos_token_id": end, "attn_implementation": "eager"}
    config = CLIPTextConfig(**small, num_hidden_layers=3, hidden_act="quick_gelu")
    write(out, "clip", CLIPTextModel(config), own, torch.float16, "text_model.", scores=1.5,
          pooled=lambda output: output.pooler_output)
    config = CLIPTextConfig(**small, num_hidden_layers=2, hidden_act="gelu", projection_dim=20)
    model = CLIPTextModelWithProjection(config)
    text = config_json(config, architectures=["CLIPTextModelWithProjection"], bos_token_id=0,
                       eos_token_id=2)

    class Projected(torch.nn.Module):
        """text_embeds beside the states of the text model."""
        def __init__(self):
            super().__init__()
            self.model, self.config = model, config

        def forward(self, rows, output_hidden_states):
            out = self.model(rows, output_hidden_states=output_hidden_states)
            return out

    write(out, "clip_projected", Projected(), own, torch.float32, scores=1.5, config_text=text,
          pooled=lambda output: output.text_embeds, rename=lambda key: key.removeprefix("model."))


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(17)
    ids = texts(torch.Generator().manual_seed(17))
    decoders(out, ids)
    t5(out, ids)
    clip(out, ids)


if __name__ == "__main__":
    main()
