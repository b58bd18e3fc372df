#!/usr/bin/env python3
"""Compares `strata tokenize` with Hugging Face's `tokenizers`, `transformers` and SentencePiece on
real vocabularies, over thousands of hard lines. Prints a table; exit 1 on any difference.

    pip download --no-deps -d WHEELS mistral-common==1.13.1 llama-models==0.3.0 dashscope==2.0.2 \\
        open-clip-torch==3.3.0 seqio==0.0.20 ai21-tokenizer==1.1.0
    tools/makers/check_tokenizers.py WHEELS [--lines 6000] [--only NAME] [--seed 17]

Vocabularies: Mistral (mistral-common), Llama 3 and 4 (llama-models), Qwen (dashscope), CLIP
(open-clip-torch), a unigram model with T5's character map (seqio), a 256 K unigram model with byte
fallback (ai21-tokenizer). Gemma2's own is in no package: its pipeline runs on Mistral's vocabulary.
Made for tokenizers 0.23.3, transformers 5.23.0, sentencepiece 0.2.3, tiktoken 0.14.0. The one known
difference: unigram-256k-model, where sentencepiece 0.2.3 rounds scores otherwise than Debian's
library (0.1.97; 0.1.99 from PyPI gives the same ids).
"""
import argparse
import base64
import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata
import zipfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter, bytes_to_unicode

from goldens_text import CLIP_SPLIT, CORPUS, HARD, LLAMA_SPLIT

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPACE = "▁"


def member(wheels, package, name):
    """The bytes of one file of a downloaded package."""
    (wheel,) = wheels.glob(f"{package}-*.whl")
    return zipfile.ZipFile(wheel).read(name)


def added(vocab, tokens):
    ids = iter(range(len(vocab), len(vocab) + len(tokens)))
    return [{"id": vocab[t] if t in vocab else next(ids), "content": t, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for t in tokens]


def template(before, after, ids):
    part = [{"SpecialToken": {"id": t, "type_id": 0}} for t in before]
    tail = [{"SpecialToken": {"id": t, "type_id": 0}} for t in after]
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": part + text + tail,
            "pair": part + text + tail + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]}
                               for t in before + after}}


def document(model, **parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            **parts, "model": model}


def piece_model(data):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    return proto


def merges_of(vocab):
    """Every way to put a token together out of two, in the order of ids."""
    merges = []
    for token, rank in vocab.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        own = [(vocab[a], vocab[b], a, b) for a, b in cuts if a in vocab and b in vocab]
        merges += [(rank, *cut) for cut in sorted(own)]
    return [[a, b] for *_, a, b in sorted(merges)]


def byte_fallback_bpe(data):
    vocab = {piece.piece: i for i, piece in enumerate(piece_model(data).pieces)}
    return vocab, {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
                   "continuing_subword_prefix": None, "end_of_word_suffix": None,
                   "byte_fallback": True, "ignore_merges": False, "vocab": vocab,
                   "merges": merges_of({t: i for t, i in vocab.items() if i >= 259})}


REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
UNREPLACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
LLAMA_DECODER = {"type": "Sequence", "decoders": [
    UNREPLACE, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}


def mistral_v1(data):
    vocab, model = byte_fallback_bpe(data)
    return document(model, added_tokens=added(vocab, ["<unk>", "<s>", "</s>"]),
                    normalizer={"type": "Sequence", "normalizers": [
                        {"type": "Prepend", "prepend": SPACE}, REPLACE]},
                    post_processor=template(["<s>"], [], vocab), decoder=LLAMA_DECODER)


def mistral_v3(data):
    vocab, model = byte_fallback_bpe(data)
    control = [p.piece for p in piece_model(data).pieces if p.type == p.CONTROL]
    return document(model, added_tokens=added(vocab, ["<unk>", *control]),
                    pre_tokenizer={"type": "Metaspace", "replacement": SPACE,
                                   "prepend_scheme": "first", "split": False},
                    post_processor=template(["<s>"], [], vocab), decoder=LLAMA_DECODER)


def gemma2(data):
    vocab, model = byte_fallback_bpe(data)
    return document(model, added_tokens=added(vocab, ["<unk>", "<s>", "</s>"]), normalizer=REPLACE,
                    pre_tokenizer={"type": "Split", "pattern": {"String": " "},
                                   "behavior": "MergedWithPrevious", "invert": False},
                    post_processor=template(["<s>"], [], vocab), decoder={
                        "type": "Sequence", "decoders": [
                            UNREPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}]})


def unigram(data, byte_fallback=False):
    proto = piece_model(data)
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    model = {"type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "byte_fallback": byte_fallback,
             "vocab": [[piece.piece, piece.score] for piece in proto.pieces]}
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always",
                 "split": True}
    control = [p.piece for p in proto.pieces if p.type == p.CONTROL]
    control += [f"<extra_id_{i}>" for i in range(100)]
    return document(model, added_tokens=added(vocab, control),
                    normalizer={"type": "Sequence", "normalizers": [
                        {"type": "Precompiled", "precompiled_charsmap": charsmap},
                        {"type": "Strip", "strip_left": False, "strip_right": True},
                        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}]}
                    if charsmap else None,
                    pre_tokenizer={"type": "Sequence", "pretokenizers": [
                        {"type": "WhitespaceSplit"}, metaspace]},
                    post_processor=template([], [control[0]], vocab),
                    decoder=metaspace)


def tiktoken(folder, data, pattern, special, normalizer=None, begin=()):
    """Byte-level BPE out of a tiktoken file."""
    path = folder / "ranks.tiktoken"
    path.write_bytes(data)
    tokenizer = TikTokenConverter(vocab_file=str(path), pattern=pattern,
                                  extra_special_tokens=list(special)).converted()
    path.unlink()
    made = json.loads(tokenizer.to_str())
    made["normalizer"] = normalizer
    ids = {t["content"]: t["id"] for t in made["added_tokens"]}
    if begin:
        made["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
             "use_regex": True}, template(list(begin), [], ids)]}
    return made


def clip_files(folder, data):
    lines = gzip.decompress(data).decode().split("\n")
    merges = lines[1:49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = letters + [x + "</w>" for x in letters] + ["".join(m.split()) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    write_files(folder, vocab, merges)
    flags = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False,
             "single_word": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
        "bos_token": {"content": "<|startoftext|>", **flags},
        "eos_token": {"content": "<|endoftext|>", **flags},
        "unk_token": {"content": "<|endoftext|>", **flags}, "pad_token": "<|endoftext|>"}))
    return vocab, merges


def clip_json(vocab, merges):
    model = {"type": "BPE", "dropout": None, "unk_token": "<|endoftext|>", "fuse_unk": False,
             "continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "vocab": vocab,
             "merges": merges}
    names = ["<|startoftext|>", "<|endoftext|>"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return document(model, added_tokens=added(vocab, names), decoder=byte_level,
                    normalizer={"type": "Sequence", "normalizers": [
                        {"type": "NFC"},
                        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                        {"type": "Lowercase"}]},
                    pre_tokenizer={"type": "Sequence", "pretokenizers": [
                        {"type": "Split", "pattern": {"Regex": CLIP_SPLIT}, "behavior": "Removed",
                         "invert": True}, byte_level]},
                    post_processor={"type": "RobertaProcessing", "trim_offsets": False,
                                    "add_prefix_space": False, "cls": [names[0], vocab[names[0]]],
                                    "sep": [names[1], vocab[names[1]]]})


def write_files(folder, vocab, merges):
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


class Json:
    """Oracle of a tokenizer.json."""
    def __init__(self, folder, made):
        (folder / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(self, line, special):
        return self.tokenizer.encode(line, add_special_tokens=special).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Pieces:
    """Oracle of a .model: the two conventions for what stands around a text."""
    def __init__(self, folder, data, name):
        (folder / name).write_bytes(data)
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        self.name = name

    def encode(self, line, special):
        ids = self.processor.encode(line)
        if not special:
            return ids
        if self.name == "spiece.model":
            return ids + [self.processor.eos_id()]
        return [self.processor.bos_id()] + ids

    def decode(self, ids):
        drop = (self.processor.unk_id(), self.processor.bos_id(), self.processor.eos_id())
        return self.processor.decode([i for i in ids if i not in drop])


class Files:
    """Oracle of vocab.json and merges.txt."""
    def __init__(self, folder, kind):
        self.tokenizer = kind.from_pretrained(str(folder))

    def encode(self, line, special):
        return self.tokenizer(line, add_special_tokens=special, truncation=False)["input_ids"]

    decode = None


def cases(wheels):
    """(name, package, folder -> oracle)"""
    mistral = [member(wheels, "mistral_common", f"mistral_common/data/{name}") for name in (
        "tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3")]
    llama3 = member(wheels, "llama_models", "llama_models/llama3/tokenizer.model")
    llama4 = member(wheels, "llama_models", "llama_models/llama4/tokenizer.model")
    qwen = member(wheels, "dashscope", "dashscope/resources/qwen.tiktoken")
    clip = member(wheels, "open_clip_torch", "open_clip/bpe_simple_vocab_16e6.txt.gz")
    seqio = member(wheels, "seqio", "seqio/test_data/sentencepiece/sentencepiece.model")
    ai21 = member(wheels, "ai21_tokenizer",
                  "ai21_tokenizer/resources/j2-tokenizer/j2-tokenizer.model")
    qwen_split = LLAMA_SPLIT.replace("{1,3}", "")
    qwen_special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    llama_special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]

    def qwen_json(folder):
        return tiktoken(folder, qwen, qwen_split, qwen_special, {"type": "NFC"})

    def qwen_files(folder):
        made = qwen_json(folder)
        write_files(folder, made["model"]["vocab"], [" ".join(m) for m in made["model"]["merges"]])
        (folder / "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "bos_token": None,
            "pad_token": "<|endoftext|>", "additional_special_tokens": qwen_special[1:],
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"}
                                     for t in made["added_tokens"]}}))
        return Files(folder, Qwen2Tokenizer)

    def clip_slow(folder):
        clip_files(folder, clip)
        return Files(folder, CLIPTokenizer)

    yield "mistral-v0.1", "mistral-common", lambda f: Json(f, mistral_v1(mistral[0]))
    yield "mistral-v0.1-model", "mistral-common", lambda f: Pieces(f, mistral[0], "tokenizer.model")
    yield "mistral-v0.3", "mistral-common", lambda f: Json(f, mistral_v3(mistral[1]))
    yield "mistral-v0.3-model", "mistral-common", lambda f: Pieces(f, mistral[1], "tokenizer.model")
    yield "gemma2-pipeline", "mistral-common", lambda f: Json(f, gemma2(mistral[0]))
    yield "llama3", "llama-models", lambda f: Json(f, tiktoken(
        f, llama3, LLAMA_SPLIT, llama_special, begin=llama_special[:1]))
    yield "llama4", "llama-models", lambda f: Json(f, tiktoken(
        f, llama4, LLAMA_SPLIT, llama_special, begin=llama_special[:1]))
    yield "qwen2", "dashscope", lambda f: Json(f, qwen_json(f))
    yield "qwen2-files", "dashscope", qwen_files
    yield "clip", "open-clip-torch", lambda f: Json(
        f, clip_json(*(lambda v, m: (v, [x.split() for x in m]))(*clip_files(f, clip))))
    yield "clip-files", "open-clip-torch", clip_slow
    yield "t5-pipeline", "seqio", lambda f: Json(f, unigram(seqio))
    yield "t5-model", "seqio", lambda f: Pieces(f, seqio, "spiece.model")
    yield "unigram-256k", "ai21-tokenizer", lambda f: Json(f, unigram(ai21, byte_fallback=True))
    yield "unigram-256k-model", "ai21-tokenizer", lambda f: Pieces(f, ai21, "tokenizer.model")


def hard_lines(count, seed):
    """Real captions, hand-made hard lines, and random Unicode: scripts, marks, joiners, spaces."""
    rng = random.Random(seed)
    prompts = [json.loads(line)["prompt"] for line in
               (ROOT / "data/miniature/prompts.jsonl").read_text().splitlines()]
    lines = HARD + CORPUS + prompts[:500]
    assigned = [chr(c) for c in range(1, 0x110000) if c != 10 and not 0xD800 <= c < 0xE000
                and unicodedata.category(chr(c)) not in ("Cn", "Co")]
    blocks = [assigned[i:i + 256] for i in range(0, len(assigned), 256)]
    spaces = [" ", "  ", "\t", "\r", "\u00a0", "\u3000", "\u2009", "\u200b", "\u200d", "\ufe0f"]
    marks = [c for c in assigned if unicodedata.combining(c)]
    words = " ".join(prompts + CORPUS).split()
    names = ["<s>", "</s>", "<|endoftext|>", "<unk>", "<extra_id_0>", "[INST]", "<0x41>", "!",
             SPACE]

    def word():
        kind = rng.randrange(10)
        if kind < 3:
            return rng.choice(words)
        if kind == 3:
            text = rng.choice(words)
            at = rng.randrange(len(text) + 1)
            return text[:at] + rng.choice(marks) + text[at:]
        if kind == 4:
            return rng.choice(names)
        if kind == 5:
            return "".join(rng.choice(assigned) for _ in range(rng.randrange(1, 8)))
        if kind == 6:
            return rng.choice(words) * rng.randrange(2, 6)
        if kind == 7:
            return unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]),
                                         rng.choice(words))
        if kind == 8:
            return rng.choice(words).upper()
        block = rng.choice(blocks[:40] if rng.random() < 0.7 else blocks)
        return "".join(rng.choice(block) for _ in range(rng.randrange(1, 12)))

    while len(lines) < count:
        text = "".join(word() + rng.choice(spaces + [" "] * 12 + [""] * 4)
                       for _ in range(rng.randrange(1, 16)))
        lines.append(text.replace("\n", " "))
    return lines


def strata(binary, folder, path, *options):
    result = subprocess.run([binary, "tokenize", "--model", folder, "--input", path, *options],
                            capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{folder}: {result.stderr}")
    return [json.loads(line) for line in result.stdout.split("\n")[:-1]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wheels", type=pathlib.Path)
    parser.add_argument("--strata", default=str(ROOT / "build/host/strata"))
    parser.add_argument("--lines", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    lines = hard_lines(arguments.lines, arguments.seed)
    failed = 0
    print(f"{'tokenizer':20} {'package':16} lines  different: ids  raw ids  decoded")
    with tempfile.TemporaryDirectory() as temporary:
        base = pathlib.Path(temporary)
        texts, ids_file = base / "lines.txt", base / "ids.txt"
        texts.write_bytes("".join(line + "\n" for line in lines).encode())
        for name, package, make in cases(arguments.wheels):
            if arguments.only not in name:
                continue
            folder = base / name
            folder.mkdir()
            oracle = make(folder)
            special = [oracle.encode(line, True) for line in lines]
            raw = [oracle.encode(line, False) for line in lines]
            pairs = [(special, strata(arguments.strata, folder, texts, "--max-tokens", "0")),
                     (raw, strata(arguments.strata, folder, texts, "--raw"))]
            if oracle.decode:
                # Whole texts, and pieces that begin and end inside of words and characters.
                rng = random.Random(arguments.seed)
                pieces = [ids[rng.randrange(3):len(ids) - rng.randrange(3)] for ids in special]
                ids_file.write_text("".join(json.dumps(ids) + "\n" for ids in pieces))
                pairs.append(([oracle.decode(ids) for ids in pieces],
                              strata(arguments.strata, folder, ids_file, "--decode")))
            wrong = [[i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b]
                     for pair in pairs]
            counts = "".join(f"{len(w):9}" for w in wrong)
            print(f"{name:20} {package:16} {len(lines)}      {counts}", flush=True)
            for (expected, got), where in zip(pairs, wrong):
                for i in where[:3]:
                    print(f"  line {i}: {lines[i]!r}\n    expected {expected[i]}\n"
                          f"    got      {got[i]}")
            failed += sum(map(len, wrong))
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
