#!/usr/bin/env python3
"""Goldens of image decoding, resizing and cropping for tests/data/image_test.cpp.

Made with Pillow 13.0.0 (libjpeg-turbo, libwebp 1.6.0), numpy 2.x; torchvision's size rules are written
out below. Usage: goldens_image.py tests/golden/image
Writes the encoded pictures, expected.bin (RGB bytes) and cases.txt, one case a line:
  decode NAME WIDTH HEIGHT OFFSET
  resize NAME WIDTH HEIGHT FILTER OFFSET
  crop   NAME SIZE FILTER OFFSET
"""
import io
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(3)
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def picture(width, height):
    """Gradients, edges and noise: every kind of content that filters treat differently."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1),
                     (x * 7 + y * 13) % 256], -1)
    base[(x // 5 + y // 7) % 3 == 0] = [250, 20, 128]
    noise = random.integers(0, 256, (height, width, 3))
    return np.where((x > width // 2)[..., None], noise, base).astype(np.uint8)


rgb = Image.fromarray(picture(61, 47))
alpha = Image.fromarray(random.integers(0, 256, (47, 61)).astype(np.uint8))
grey = rgb.convert("L")
rgba = rgb.copy()
rgba.putalpha(alpha)
grey_alpha = grey.copy()
grey_alpha.putalpha(alpha)
palette = rgb.quantize(37)


def save(name, image, **options):
    image.save(out / name, **options)


save("rgb-444.jpg", rgb, quality=90, subsampling=0)
save("rgb-422.jpg", rgb, quality=80, subsampling=1)
save("rgb-420.jpg", rgb, quality=70, subsampling=2)
save("rgb-progressive.jpg", rgb, quality=85, progressive=True)
save("grey.jpg", grey, quality=85)
save("cmyk.jpg", rgb.convert("CMYK"), quality=90)
save("rgb.png", rgb)
save("rgba.png", rgba)
save("grey.png", grey)
save("grey-alpha.png", grey_alpha)
save("palette.png", palette)
save("palette-transparent.png", palette, transparency=5)
save("palette-4bit.png", rgb.quantize(11), bits=4)
save("bilevel.png", rgb.convert("1"))
save("rgb-transparent.png", rgb, transparency=(250, 20, 128))
save("lossy.webp", rgb, quality=80)
save("lossless.webp", rgb, lossless=True)
save("lossy-alpha.webp", rgba, quality=75)
save("lossless-alpha.webp", rgba, lossless=True, exact=True)
save("animated.webp", rgb, save_all=True, append_images=[rgb.rotate(180)], duration=50, lossless=True)


def raw_png(name, width, height, depth, colour, rows, interlace=0):
    """PNG kinds that Pillow does not write. rows: bytes of each row without the filter byte."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    (out / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)
                             + chunk(b"IEND", b""))


def deep(channels, top):
    values = random.integers(0, top, (9, 13, channels)).astype(">u2")
    return [row.tobytes() for row in values]


raw_png("rgb-16.png", 13, 9, 16, 2, deep(3, 65536))
raw_png("rgba-16.png", 13, 9, 16, 6, deep(4, 65536))
raw_png("grey-16.png", 13, 9, 16, 0, deep(1, 600))
raw_png("grey-alpha-16.png", 13, 9, 16, 4, deep(2, 65536))
raw_png("grey-2.png", 12, 9, 2, 0, [bytes(random.integers(0, 256, 3).tolist()) for _ in range(9)])


def interlaced(image):
    """The seven Adam7 passes, as rows."""
    pixels = np.asarray(image)
    for y0, x0, dy, dx in [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2),
                           (0, 1, 2, 2), (1, 0, 2, 1)]:
        for row in pixels[y0::dy, x0::dx]:
            yield row.tobytes()


raw_png("interlaced.png", 61, 47, 8, 2, list(interlaced(rgb)), interlace=1)

expected = io.BytesIO()
cases = []


def expect(line, image):
    cases.append(f"{line} {expected.tell()}")
    expected.write(image.tobytes())


for path in sorted(out.iterdir()):
    if path.suffix in {".jpg", ".png", ".webp"}:
        with Image.open(path) as image:
            expect(f"decode {path.name} {image.width} {image.height}", image.convert("RGB"))

save("wide.png", Image.fromarray(picture(97, 38)))
save("tall.png", Image.fromarray(picture(31, 83)))
save("odd.png", Image.fromarray(picture(50, 41)))


def crop(image, size, resample):
    """torchvision: Resize(size), CenterCrop(size)."""
    shorter, longer = sorted(image.size)
    scaled = int(size * longer / shorter)
    to = (size, scaled) if image.width <= image.height else (scaled, size)
    image = image.resize(to, resample)
    left, top = int(round((image.width - size) / 2.0)), int(round((image.height - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


for name in ["wide.png", "tall.png", "odd.png"]:
    image = Image.open(out / name).convert("RGB")
    for label, resample in FILTERS.items():
        for width, height in [(32, 32), (7, 50), (120, 19), (image.width, 16), (24, image.height)]:
            expect(f"resize {name} {width} {height} {label}", image.resize((width, height), resample))
        for size in [16, 25, 32, 48]:
            expect(f"crop {name} {size} {label}", crop(image, size, resample))

(out / "expected.bin").write_bytes(expected.getvalue())
(out / "cases.txt").write_text("\n".join(cases) + "\n")
