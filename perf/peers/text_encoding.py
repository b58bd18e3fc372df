#!/opt/venv/bin/python
"""Race: captions through a frozen Llama, ours against transformers, in turn on the same cores.

    perf/peers/text_encoding.py [--captions 2000] [--turns 3] [--threads 2] [--batch 32]
                                [--processor-time]

A Llama of 512 x 8 layers with random weights, bf16, captions of 5 to 200 tokens. Both sides keep the
last state, one layer, the plain and the normalised average of all layers, and each caption's last
token. transformers runs twice: captions sorted by length, and as they come; padded to the longest
of each batch of --batch captions. Every turn runs the three one after the other; printed are the
medians of real tokens a second (padding does not count) and of the turns' ratios.
Needs torch and transformers (written with 2.15, 5.23) and build/host/text_encoding.
"""
import argparse
import os
import pathlib
import statistics
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--captions", type=int, default=2000)
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--batch-tokens", type=int, default=None, help="ours")
parser.add_argument("--processor-time", action="store_true",
                    help="compare seconds of the processor: for cores with other work on them; "
                         "with --threads 1, because waiting threads spin")
parser.add_argument("--vocabulary", type=int, default=32000)
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import race  # noqa: E402
import torch  # noqa: E402: after the number of threads
from safetensors.torch import save_file  # noqa: E402
from transformers import LlamaConfig, LlamaModel  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
torch.set_num_threads(arguments.threads)
torch.manual_seed(17)
config = LlamaConfig(vocab_size=arguments.vocabulary, hidden_size=512, intermediate_size=1376,
                     num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8,
                     max_position_embeddings=512)
model = LlamaModel(config).to(torch.bfloat16).eval()
lengths = torch.randint(5, 201, (arguments.captions,))
texts = [torch.randint(0, config.vocab_size, (int(n),)) for n in lengths]
tokens = int(lengths.sum())


@torch.inference_mode()
def encode(batch):
    """The strategies of each caption of a batch, without its padding."""
    longest = max(len(text) for text in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros(len(batch), longest, dtype=torch.int64)
    for row, text in enumerate(batch):
        ids[row, :len(text)] = text
        mask[row, :len(text)] = 1
    states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    real = mask.bool()
    average = normalised = 0
    for state in states:
        state = state[real].float()
        average = average + state
        normalised = normalised + torch.nn.functional.layer_norm(state, state.shape[-1:])
    last = states[-1][torch.arange(len(batch)), mask.sum(1) - 1].float()
    return (states[-1][real].float(), states[4][real].float(), average / len(states),
            normalised / len(states), last)


def theirs(order):
    clock = time.process_time if arguments.processor_time else time.perf_counter
    begin = clock()
    for first in range(0, len(order), arguments.batch):
        encode([texts[i] for i in order[first:first + arguments.batch]])
    return clock() - begin


def main():
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        save_file({"input_ids": torch.cat(texts), "offsets": offsets}, folder + "/texts")
        command = [str(ROOT / "build/host/text_encoding"), folder, folder + "/texts"]
        if arguments.batch_tokens:
            command.append(str(arguments.batch_tokens))
        worker = race.Worker(command)

        def ours():
            return worker.ask()[arguments.processor_time]

        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        as_they_come = list(range(len(texts)))
        ours(), theirs(by_length[-64:])  # both are warm
        turns = []
        for turn in range(arguments.turns):
            turns.append((ours(), theirs(by_length), theirs(as_they_come)))
            print("turn {}: ours {:.0f}, sorted {:.0f}, as they come {:.0f} tokens/s".format(
                turn + 1, *(tokens / s for s in turns[-1])), flush=True)
        worker.close()
    mine, by_size, plain = zip(*turns)
    rates = [tokens / statistics.median(seconds) for seconds in (mine, by_size, plain)]
    print(f"{len(texts)} captions, {tokens} tokens, {arguments.threads} threads, bf16: "
          f"ours {rates[0]:.0f}, transformers sorted {rates[1]:.0f}, as they come {rates[2]:.0f} "
          "real tokens/s")
    print(f"ratio over sorted {race.said(race.ratios(by_size, mine))} (wanted >= 1.6), "
          f"over as they come {race.said(race.ratios(plain, mine))} (wanted >= 3)")


main()
