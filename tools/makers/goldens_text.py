#!/usr/bin/env python3
"""Goldens of the tokenizer and of the Llama-layout decoder, written to tests/golden/text/.

    tools/makers/goldens_text.py tests/golden/text

Made with tokenizers 0.23.3, transformers 5.23.0, torch 2.15.0 (CPU). Tests never run this script.
`tokenizers` numbers an alphabet with a word suffix at random: clip/ differs from run to run.
"""
import copy
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import (AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers,
                        processors, trainers)
from transformers import LlamaConfig, LlamaModel

LLAMA_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CLIP_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

CORPUS = """a photo of a red circle above a blue square
two green triangles and three yellow circles on a white background
the large dog is not next to the small cat, isn't it? they're friends; we'll see, I'd say she's here
an oil painting of 1234 ships in 1999, 24x36 inches, by Élodie Müller from Zürich
naïve café façade, jalapeño, smörgåsbord, crème brûlée, Ångström, über
красный круг над синим квадратом и зелёный треугольник
红色的圆圈在蓝色的方块上面 日本語のテキスト カタカナ 한국어 텍스트
مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก
🙂 😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ emoji
std::vector<int> x = {1, 2, 3}; // comment\tand tabs   and spaces
<s> </s> <|image|> MASK words
""".splitlines() * 4

HARD = [
    "", " ", "  ", "   a", "a   ", "a  b   c", "\t", "\ttabs\t\there", "\r", "ends with CR\r",
    "a\rb", "\x00", "nul\x00inside", "\x01\x02\x1f\x7f", "hello world", "Hello World",
    "HELLO WORLD", " hello", "don't", "DON'T", "I'll we've they're it's I'm he'd", "it\u2019s",
    "x'S y'T z'LL \u017f '\u017f", "1", "12", "123", "1234", "1234567890", "3.14159", "1,000,000",
    "x1y22z333", "\u0664\u0662", "\u00bd \u00b2 \u2167 \u3007", "a.b.c...", "!!!???",
    "(a)[b]{c}<d>", "end.\n".strip(), "$100 & 50%", "@user #tag", "https://example.org/a?b=c&d=%20",
    "snake_case camelCase kebab-case", "caf\u00e9", "cafe\u0301", "\u00c5 \u212b A\u030a",
    "\ufb01 \ufb03 \u00df \u1e9e", "\uac00 \u1100\u1161 \uac01 \u1100\u1161\u11a8",
    "\u0958 \u0915\u093c", "a\u0301\u0301\u0301", "\u0344 \u2126 \u1e69",
    "q\u0307\u0323 q\u0323\u0307", "\u0130\u0131 I\u0307",
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u039f\u03a3", "красный круг", "КРАСНЫЙ",
    "ёлка е\u0308лка", "红色的圆圈", "日本語のテキスト", "ｶﾞ ガ カ\u3099", "한국어 텍스트", "مرحبا بالعالم", "مَرْحَبًا",
    "שָׁלוֹם עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "ကမ္ဘာ", "ግዕዝ", "ᏣᎳᎩ", "ᚠᛇᚻ", "𐍈 𝔘𝔫𝔦 𝟘𝟙", "🙂",
    "😀😀", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "❤️ ❤", "#️⃣ 1️⃣", "a🙂b", "\u200b zero\u200bwidth",
    "\u200d \u200c \u2060", "\ufeffbom", "\u00a0nbsp\u00a0", "\u3000ideographic\u3000space",
    "\u2003em\u2009thin", "\u180emongolian", "\u1680ogham\u1680", "\u2028line\u2029para",
    "\u0085nel\u0085x", "\u000bvt\u000cff", "\u00ad soft\u00adhyphen", "\u202eRTL\u202c", "\ufffd",
    "\U0010ffff \U000e0001 \ue000", "<s>", "</s>", "<s>a</s>", "x <s> y", "<s", "s>", "<<s>>",
    "<|image|>", " <|image|> ", "a<|image|>b", "a <|image|>  b", "<|IMAGE|>", "MASK",
    "UNMASKED MASK,MASK MASKS _MASK_ MASK", "caf\u00e9MASK", "MASK\u00e9", "  MASK  ", "Strip me",
    "a   Strip   b", "Strip Strip", "trim", " trim ", "trimtrim", "N\u00e9e", "ne\u0301e",
    "n\u00e9e N\u00c9E", "word " * 40, "a" * 300, "ab" * 200, "\u00e9" * 120, "e\u0301" * 60,
    "🙂" * 50, " " * 70 + "x", "x" + " " * 70, "\t \t \t" * 10,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "aaaaaaaaaaaaaaaaabaaaaaaaaaaab", "the the the thethethe", "\u0300\u0301 leading marks",
    "a\u0300b\u0301c\u0302", "''''''''", "' 's 't", "--- *** ___ ===",
    "std::vector<int> x = {1, 2, 3}; // comment", "\\n\\t\\u0041",
    "\"quoted\" `ticks` \u201ccurly\u201d \u00abguillemets\u00bb", "line one\r\rline two",
    "a\u0345 \u1f80 \u03b1\u0345", "\u01c5 \u01c4 \u01c6", "x\u00b2+y\u00b2=z\u00b2",
    "\u4e2d1\u6587a b2", "0x1F600", "e\u0301\u0302 \u1ebf",
]


def byte_level_bpe(vocab_size, pre_tokenizer, normalizer=None, special=(), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    suffix = {key: model[key] for key in ("end_of_word_suffix",) if key in model}
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **suffix))
    return tokenizer


def template(tokenizer, single, names):
    return processors.TemplateProcessing(
        single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


def llama3():
    """Split + ByteLevel, ignore_merges, a template, added tokens of every kind."""
    tokenizer = byte_level_bpe(450, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        special=["<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken("<|image|>", rstrip=True, special=True)])
    tokenizer.add_tokens([
        AddedToken("MASK", single_word=True), AddedToken("Strip", lstrip=True, rstrip=True),
        AddedToken("trim", lstrip=True, normalized=False), "<s"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False), template(tokenizer, "<s> $A", ["<s>"])])
    description = json.loads(tokenizer.to_str())
    description["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(description))


def gpt2():
    """The GPT-2 pattern, a prefix space, no template."""
    tokenizer = byte_level_bpe(400, pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def qwen2():
    """NFC, single digits, added tokens in normalized text."""
    tokenizer = byte_level_bpe(420, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_SPLIT.replace("{1,3}", "")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), normalizers.NFC())
    tokenizer.add_tokens([AddedToken("ne\u0301e", normalized=True),
                          AddedToken("MASK", normalized=True)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def clip():
    """Lower case, collapsed space, an end-of-word suffix, Roberta's template."""
    tokenizer = byte_level_bpe(
        700, pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(CLIP_SPLIT), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "),
                              normalizers.Lowercase()]),
        special=["<s>", "</s>"], end_of_word_suffix="</w>", unk_token="</s>")
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", tokenizer.token_to_id("</s>")),
        cls_token=("<s>", tokenizer.token_to_id("<s>")), add_prefix_space=False)
    return tokenizer


def mistral():
    """Prepend and Replace, byte fallback, fused unknowns; no pre-tokenizer."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(0, 256, 1):
        if byte < 0xf0:  # 4-byte characters have no bytes to fall back to
            vocab[f"<0x{byte:02X}>"] = len(vocab)
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                               normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(CORPUS[:5],
                                trainers.BpeTrainer(vocab_size=220, show_progress=False))
    source = json.loads(trained.to_str())["model"]
    for token in sorted(source["vocab"], key=source["vocab"].get):
        vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(m) for m in source["merges"]], unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = trained.normalizer
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = template(tokenizer, "<s> $A", ["<s>"])
    return tokenizer


def gemma():
    """Replace, Split MergedWithPrevious, unknowns kept apart, old merge strings."""
    tokenizer = mistral()
    description = json.loads(tokenizer.to_str())
    description["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    description["pre_tokenizer"] = {"type": "Split", "pattern": {"String": "▁"},
                                    "behavior": "MergedWithPrevious", "invert": False}
    description["model"].update(fuse_unk=False, byte_fallback=False)
    description["model"]["merges"] = [" ".join(merge) for merge in description["model"]["merges"]]
    description["post_processor"] = json.loads(tokenizer.to_str())["post_processor"]
    return description


def splits():
    """Each remaining split behaviour, and digits."""
    steps = [{"type": "Split", "pattern": {"Regex": r"[aeiou]"}, "behavior": behaviour,
              "invert": invert}
             for behaviour, invert in (("MergedWithPrevious", False), ("MergedWithNext", False),
                                       ("Contiguous", False), ("Contiguous", True),
                                       ("MergedWithNext", True))]
    description = json.loads(gpt2().to_str())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    for i, step in enumerate(steps):
        one = copy.deepcopy(description)
        one["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": i % 2 == 0}, step, byte_level]}
        yield f"split{i}", one


def compact(tokenizer):
    """The tokenizer.json of a tokenizer or of its description, on one line."""
    description = tokenizer if isinstance(tokenizer, dict) else json.loads(tokenizer.to_str())
    return json.dumps(description, ensure_ascii=False, separators=(",", ":"))


def write_tokenizers(out):
    """One file a tokenizer, with the ids of every hard line, with and without special tokens."""
    kinds = {"llama3": llama3(), "gpt2": gpt2(), "qwen2": qwen2(), "clip": clip(),
             "mistral": mistral(), "gemma": gemma(), **dict(splits())}
    (out / "lines.json").write_text(json.dumps(HARD, ensure_ascii=True, indent=0) + "\n")
    for name, tokenizer in kinds.items():
        text = compact(tokenizer)
        oracle = Tokenizer.from_str(text)
        folder = out / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(text)
        ids = {"special": [oracle.encode(line).ids for line in HARD],
               "raw": [oracle.encode(line, add_special_tokens=False).ids for line in HARD]}
        (folder / "ids.json").write_text(json.dumps(ids, separators=(",", ":")) + "\n")


def write_llama(out):
    """A random Llama with grouped queries: every hidden state of ragged captions; bf16's error."""
    folder = out / "llama"
    folder.mkdir(exist_ok=True)
    tokenizer = llama3()
    torch.manual_seed(17)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=48,
                         intermediate_size=112, num_hidden_layers=4, num_attention_heads=6,
                         num_key_value_heads=2, head_dim=16,
                         max_position_embeddings=512, rms_norm_eps=1e-5,
                         rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    model = LlamaModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = parameter.shape[-1]
            scale = 0.3 if "norm" in name else 0.6 if "embed" in name else 1.2 / width ** 0.5
            parameter.copy_(torch.randn_like(parameter) * scale + ("norm" in name))
            parameter.copy_(parameter.bfloat16().float())  # bf16 weights are the same weights
    save_file({"model." + k: v.bfloat16().contiguous() for k, v in model.state_dict().items()},
              folder / "model.safetensors", metadata={"format": "pt"})
    description = json.loads(config.to_json_string(use_diff=False))
    keep = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "head_dim", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "hidden_act",
            "attention_bias", "mlp_bias", "rope_parameters")
    kept = {key: description[key] for key in keep}
    (folder / "config.json").write_text(json.dumps(kept, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(compact(tokenizer))

    captions = ["a photo of a red circle", "", "x",
                "two green triangles and three yellow circles " * 4,
                "红色的圆圈 🙂", "the large dog is not next to the small cat"]
    (folder / "captions.txt").write_text("\n".join(captions) + "\n")
    ids = [tokenizer.encode(caption).ids for caption in captions]
    layers, rough, bidirectional = [], [], []
    half = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        for row in ids:
            rows = torch.tensor([row])
            layers.append(torch.cat(model(rows, output_hidden_states=True).hidden_states))
            rough.append(torch.cat(half(rows, output_hidden_states=True).hidden_states).float())
            everywhere = torch.zeros(1, 1, len(row), len(row))
            bidirectional.append(model(rows, attention_mask=everywhere).last_hidden_state)
    layers, rough = torch.cat(layers, 1), torch.cat(rough, 1)
    offsets = torch.tensor([0] + [len(row) for row in ids]).cumsum(0)
    normed = torch.nn.functional.layer_norm(layers, layers.shape[-1:], eps=1e-5)
    rough_error = (rough - layers).flatten(1).norm(dim=1) / layers.flatten(1).norm(dim=1)
    save_file({"input_ids": torch.tensor(sum(ids, [])), "offsets": offsets,
               "layers": layers.contiguous(), "avg": layers.mean(0), "norm_avg": normed.mean(0),
               "pooled": layers[-1][offsets[1:] - 1],
               "bidirectional_last": torch.cat(bidirectional, 1)[0].contiguous(),
               "bf16_error": rough_error}, folder / "states.safetensors")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizers(out)
    write_llama(out)


if __name__ == "__main__":
    main()
