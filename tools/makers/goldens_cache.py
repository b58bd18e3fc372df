#!/usr/bin/env python3
"""Caches that another program wrote, for tests/data/hdf5_reader_test.cpp: the contract's section 7 by h5py.

Made with h5py 3.16.0 (HDF5 2.0.0), numpy 2.4. Usage: goldens_cache.py tests/golden/cache
Sample i of a text cache has i % 4 tokens; element e of sample i is ((31 i + 7 e) mod 257 - 128) / 64, as in
tests/data/cache_fixture.hpp. `text` keeps to libver v110 and has /pooled; `latent` is of the latest version.
"""
import hashlib
import json
import pathlib
import sys

import h5py
import numpy as np

out = pathlib.Path(sys.argv[1])


def value(sample, count):
    return ((sample * 31 + np.arange(count) * 7) % 257 - 128) / 64


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def write(name, libver, rows, pooled, shape, dtype, **manifest):
    """Every dataset but /values first, so that the metadata is a prefix of the file."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "shard-00000.h5"
    values = np.concatenate(rows)
    tokens = len(values) if manifest["kind"] == "text" else 0
    with h5py.File(path, "w", libver=libver, meta_block_size=16384) as file:
        file.attrs["provenance"] = "by h5py"
        file["sample"] = np.arange(len(rows), dtype="<i8")
        if tokens:
            file["offsets"] = np.cumsum([0, *map(len, rows)]).astype("<i8")
        crcs = [crc32c(np.int64(i).tobytes() + row.tobytes() + (pooled[i].tobytes() if pooled is not None else b""))
                for i, row in enumerate(rows)]
        file["crc32c"] = np.array(crcs, dtype="<u4")
        if pooled is not None:
            file["pooled"] = pooled
        space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.py_create(values.dtype)
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"values", kind, space, creation))
        dataset.attrs["dtype"] = dtype
        dataset[...] = values
    data = path.read_bytes()
    sha256 = [hashlib.sha256(part).hexdigest() for part in (data, data[:-values.nbytes])]
    assert data.endswith(values.tobytes())
    shard = {"file": path.name, "count": len(rows), "tokens": tokens, "bytes": len(data), "sha256": sha256[0],
             "meta_sha256": sha256[1]}
    keys = {"format": "strata-cache-1", "count": len(rows), "tokens": tokens, "shape": shape, "dtype": dtype,
            "strategy": None, "max_tokens": None, "attention": None, "weights_sha256": None, "tokenizer_sha256": None,
            "index_sha256": "a" * 64, "latent_kind": None, "latent_scaled": None, "shards": [shard]}
    (folder / "manifest.json").write_text(json.dumps({**keys, **manifest}, indent=2) + "\n")


write("text", "v110", [value(i, i % 4 * 5).reshape(i % 4, 5).astype("<f4") for i in range(6)],
      np.stack([value(i, 3) for i in range(6)]).astype("<f4"), [5], "float32",
      kind="text", dim=5, strategy="last", max_tokens=77, attention="causal", model="tiny")
write("latent", "latest", [value(i, 24).reshape(1, 4, 2, 3).astype("<f2") for i in range(3)], None, [4, 2, 3], "float16",
      kind="latent", dim=4, model="tiny-vae", latent_kind="sample", latent_scaled=True)
