#!/usr/bin/env python3
"""Goldens of the tokenizer layouts and components that goldens_text.py leaves out.

    tools/makers/goldens_tokenizer.py tests/golden/text

Made with tokenizers 0.23.3, transformers 5.23.0, sentencepiece 0.2.3. Tests never run this script.
Each folder holds the tokenizer's files and ids.json: the ids of every line of lines.json with and
without special tokens, and the text of a stretch of them.
"""
import base64
import io
import json
import pathlib
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, GPT2Tokenizer, Qwen2Tokenizer

from goldens_text import CORPUS, HARD, compact

SPACE = "▁"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
LLAMA_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
# A character map of our own: spaces, controls, wide and joined letters, marks, a cluster.
RULES = [("\t", " "), ("\r", " "), ("\u00a0", " "), ("\u3000", " "), ("\u2003", " "),
         ("\u0001", ""), ("\u200b", ""), ("\ufeff", ""), ("\ufb01", "fi"), ("\ufb03", "ffi"),
         ("\u212b", "\u00c5"), ("e\u0301", "\u00e9"), ("\u00bd", "1/2"), ("\u00b2", "2"),
         ("\u1100\u1161", "\uac00"), ("\uff76\uff9e", "\u30ac"), ("\u0301", ""),
         ("\U0001d7d8", "0"), ("\u2167", "VIII")]


def train(folder, **options):
    """A tiny SentencePiece model."""
    rules = folder / "rules.tsv"
    rules.write_text("".join(" ".join(f"{ord(c):X}" for c in a) + "\t" +
                             " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in RULES))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, normalization_rule_tsv=str(rules),
        hard_vocab_limit=False, minloglevel=2, **options)
    rules.unlink()
    return model.getvalue()


def piece_proto(data):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    return proto


def added(first, *tokens, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    return [{"id": first + i, "content": t, **plain, **flags} for i, t in enumerate(tokens)]


def surround(before, after):
    """before, after: {token: id}"""
    single = [{"SpecialToken": {"id": t, "type_id": 0}} for t in before]
    single += [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [{"SpecialToken": {"id": t, "type_id": 0}} for t in after]
    return {"type": "TemplateProcessing", "single": single,
            "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]}
                               for t, i in {**before, **after}.items()}}


def document(model, **parts):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            **parts, "model": model}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def unigram(data, byte_fallback):
    proto = piece_proto(data)
    return {"type": "Unigram", "unk_id": proto.trainer_spec.unk_id, "byte_fallback": byte_fallback,
            "vocab": [[p.piece, p.score] for p in proto.pieces]}


def t5(data):
    model = unigram(data, False)
    size = len(model["vocab"])
    charsmap = base64.b64encode(piece_proto(data).normalizer_spec.precompiled_charsmap).decode()
    return document(model, added_tokens=added(0, "<pad>", "</s>", "<unk>") + added(size, "<s>"),
                    normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap},
                    pre_tokenizer={"type": "Sequence", "pretokenizers": [
                        {"type": "WhitespaceSplit"},
                        {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}]},
                    post_processor=surround({}, {"</s>": 1}), decoder=metaspace("always", True))


def unigram_fallback(data):
    """Byte fallback; the prefix only at the text's begin; stripped, decomposed, unaccented."""
    model = unigram(data, True)
    size = len(model["vocab"])
    return document(model, added_tokens=added(size, "<|image|>") + added(
        size + 1, "MASK", special=False, normalized=True),
                    normalizer={"type": "Sequence", "normalizers": [
                        {"type": "NFKD"}, {"type": "StripAccents"},
                        {"type": "Strip", "strip_left": False, "strip_right": True},
                        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}]},
                    pre_tokenizer=metaspace("first", True), decoder={
                        "type": "Sequence", "decoders": [
                            {"type": "ByteFallback"}, metaspace("first", True)]})


def bpe(data):
    vocab = {p.piece: i for i, p in enumerate(piece_proto(data).pieces)}
    merges = []
    for token, rank in vocab.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        own = [(vocab[a], vocab[b], a, b) for a, b in cuts if a in vocab and b in vocab]
        merges += [(rank, *cut) for cut in sorted(own)]
    return {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "vocab": vocab, "merges": [[a, b] for *_, a, b in sorted(merges)]}


def mistral3(data):
    return document(bpe(data), added_tokens=added(0, "<unk>", "<s>", "</s>"),
                    pre_tokenizer=metaspace("first", False),
                    post_processor=surround({"<s>": 1}, {}), decoder=LLAMA_DECODER)


def gemma2(data):
    decoder = {"type": "Sequence", "decoders": LLAMA_DECODER["decoders"][:3]}
    return document(bpe(data), added_tokens=added(0, "<unk>", "<s>", "</s>"), normalizer=REPLACE,
                    pre_tokenizer={"type": "Split", "pattern": {"String": " "},
                                   "behavior": "MergedWithPrevious", "invert": False},
                    post_processor=surround({"<s>": 1}, {}), decoder=decoder)


def cutters(data):
    """Each remaining way to cut words, and to decode them."""
    steps = [{"type": "Whitespace"}, {"type": "Punctuation"},
             {"type": "Punctuation", "behavior": "MergedWithNext"},
             {"type": "Punctuation", "behavior": "Removed"},
             {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                                                    metaspace("never", True)]}]
    decoders = [None, {"type": "Fuse"}, {"type": "BPEDecoder", "suffix": "e"},
                metaspace("never", True), {"type": "Strip", "content": "e", "start": 2, "stop": 0}]
    for i, (step, decoder) in enumerate(zip(steps, decoders, strict=True)):
        yield f"cut{i}", document(bpe(data), pre_tokenizer=step, decoder=decoder)


def write_ids(folder, encode, decode):
    ids = {"special": [encode(line, True) for line in HARD],
           "raw": [encode(line, False) for line in HARD]}
    if decode:
        ids["decoded"] = [decode(row[i % 3:]) for i, row in enumerate(ids["special"])]
    (folder / "ids.json").write_text(json.dumps(ids, separators=(",", ":")) + "\n")


def write_json(folder, description):
    text = compact(description)
    (folder / "tokenizer.json").write_text(text)
    oracle = Tokenizer.from_str(text)
    write_ids(folder, lambda line, special: oracle.encode(line, add_special_tokens=special).ids,
              oracle.decode)


def write_model(folder, name, data):
    """The convention of T5 (an end) for spiece.model, of Llama (a begin) for tokenizer.model."""
    (folder / name).write_bytes(data)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=data)
    before, after = ([], [oracle.eos_id()]) if name[0] == "s" else ([oracle.bos_id()], [])
    unseen = {oracle.unk_id(), oracle.bos_id(), oracle.eos_id()}
    write_ids(folder, lambda line, special: (before + oracle.encode(line) + after if special
                                             else oracle.encode(line)),
              lambda ids: oracle.decode([i for i in ids if i not in unseen]))


def write_files(folder, source, kind, config):
    """vocab.json and merges.txt out of the golden `source`."""
    model = json.loads((folder.parent / source / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], separators=(",", ":")))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(merge) + "\n" for merge in model["merges"]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": kind.__name__, **config}, indent=1) + "\n")
    oracle = kind.from_pretrained(str(folder))
    write_ids(folder, lambda line, special: oracle(line, add_special_tokens=special)["input_ids"],
              None)


def main():
    out = pathlib.Path(sys.argv[1])

    def folder(name):
        (out / name).mkdir(exist_ok=True)
        return out / name

    lm = train(out, model_type="unigram", vocab_size=420, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    fallback = train(out, model_type="unigram", vocab_size=600, byte_fallback=True)
    pairs = train(out, model_type="bpe", vocab_size=640, byte_fallback=True,
                  character_coverage=0.98, remove_extra_whitespaces=False,
                  user_defined_symbols=["<|image|>"])
    write_json(folder("t5"), t5(lm))
    write_model(folder("t5_model"), "spiece.model", lm)
    write_json(folder("unigram"), unigram_fallback(fallback))
    write_model(folder("unigram_model"), "tokenizer.model", fallback)
    write_json(folder("mistral3"), mistral3(pairs))
    write_model(folder("mistral3_model"), "tokenizer.model", pairs)
    write_json(folder("gemma2"), gemma2(pairs))
    for name, description in cutters(pairs):
        write_json(folder(name), description)
    flags = {"__type": "AddedToken", "lstrip": False, "rstrip": False, "single_word": False,
             "normalized": True}
    write_files(folder("clip_files"), "clip", CLIPTokenizer, {
        "bos_token": {**flags, "content": "<s>"}, "eos_token": {**flags, "content": "</s>"},
        "unk_token": {**flags, "content": "</s>"}, "pad_token": "!"})
    write_files(folder("qwen2_files"), "qwen2", Qwen2Tokenizer, {
        "bos_token": None, "eos_token": "</s>", "pad_token": "<|pad|>", "unk_token": "</s>",
        "additional_special_tokens": ["<|image|>"]})
    write_files(folder("gpt2_files"), "gpt2", GPT2Tokenizer, {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>", "add_prefix_space": True})


if __name__ == "__main__":
    main()
