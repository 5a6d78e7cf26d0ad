#!/usr/bin/env python3
"""Makes tests/golden/decode: small image files in the modes that data sets hold, and how Pillow reads them.

Run with Pillow 9.4 and numpy 1.24. Writes the files, and pixels.safetensors with `<file>.rgb` [H, W, 3] and
`<file>.grey` [H, W] for every file that Pillow reads. Files that begin with `bad_` are those that it refuses. 16-bit
grey is scaled here: Pillow clips it at 255.
"""
import argparse
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HEIGHT, WIDTH = 21, 26  # multiples of nothing


def picture(rng):
    """Colour waves, an edge and some noise: [HEIGHT, WIDTH, 3]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) for k in range(3)]
    pixels = np.stack(waves, -1) * 90 + 128
    pixels[:, 14:] = 255 - pixels[:, 14:]
    return np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png16(planes, colour_type):
    """A 16-bit PNG of planes [H, W, C]; Pillow writes none but grey."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = planes.shape
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in planes)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def scaled(image):
    """16-bit grey in 8 bits: 65535 becomes 255."""
    return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))


def ycck(cmyk_jpeg):
    """The same data declared to be YCCK: Adobe's transform byte from 0 to 2."""
    place = cmyk_jpeg.index(b"Adobe") + 11
    assert cmyk_jpeg[place] == 0
    return cmyk_jpeg[:place] + b"\2" + cmyk_jpeg[place + 1:]


def files(rng):
    array = picture(rng)
    rgb = Image.fromarray(array)
    grey = rgb.convert("L")
    alpha = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH), np.uint8))
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = rng.integers(0, 65536, (HEIGHT, WIDTH, 4), np.uint16)
    deep_grey = Image.fromarray(deep[:, :, 0])
    cmyk = encoded(rgb.convert("CMYK"), "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees

    yield "444.jpg", encoded(rgb, "JPEG", quality=95, subsampling=0)
    yield "420.jpg", encoded(rgb, "JPEG", quality=90, subsampling=2)
    yield "progressive.jpg", encoded(rgb, "JPEG", quality=90, subsampling=0, progressive=True)
    yield "grey.jpg", encoded(grey, "JPEG", quality=90)
    yield "cmyk.jpg", cmyk
    yield "ycck.jpg", ycck(cmyk)
    yield "turned.jpg", encoded(rgb, "JPEG", quality=95, subsampling=0, exif=exif)
    yield "trailing.jpg", encoded(rgb, "JPEG", quality=95, subsampling=0) + b"more"
    yield "rgb.png", encoded(rgb, "PNG")
    yield "png_named.jpg", encoded(rgb, "PNG")
    yield "rgba.png", encoded(rgba, "PNG")
    yield "grey.png", encoded(grey, "PNG")
    yield "grey_alpha.png", encoded(la, "PNG")
    yield "palette.png", encoded(rgb.quantize(40), "PNG")
    yield "palette_4bit.png", encoded(rgb.quantize(9), "PNG", bits=4)
    yield "palette_alpha.png", encoded(rgb.quantize(40), "PNG", transparency=3)
    yield "bilevel.png", encoded(rgb.convert("1"), "PNG")
    yield "grey16.png", encoded(deep_grey, "PNG")
    yield "grey_alpha16.png", png16(deep[:, :, :2], 4)
    yield "rgb16.png", png16(deep[:, :, :3], 2)
    yield "rgba16.png", png16(deep, 6)
    yield "grey16.tif", encoded(deep_grey, "TIFF")
    yield "rgb.tif", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "rgb.bmp", encoded(rgb, "BMP")
    yield "palette.bmp", encoded(rgb.quantize(40), "BMP")
    yield "lossless.webp", encoded(rgb, "WEBP", lossless=True)
    yield "lossy.webp", encoded(rgb, "WEBP", quality=90)
    whole = encoded(rgb, "JPEG", quality=90)
    yield "bad_half.jpg", whole[: len(whole) // 2]
    yield "bad_no_end.jpg", whole[:-2]
    whole = encoded(rgb, "JPEG", quality=90, progressive=True)
    yield "bad_progressive.jpg", whole[: len(whole) * 2 // 3]
    whole = encoded(rgb, "PNG")
    yield "bad_half.png", whole[: len(whole) // 2]
    yield "bad_text.jpg", b"<html>404 not found</html>"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden")
    folder = parser.parse_args().out / "decode"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {}
    for name, content in files(np.random.default_rng(0)):
        (folder / name).write_bytes(content)
        try:
            with Image.open(io.BytesIO(content)) as image:
                mode = image.mode
                if mode.startswith("I;16"):
                    image = scaled(image)
                pixels[name + ".rgb"] = np.asarray(image.convert("RGB"))
                pixels[name + ".grey"] = np.asarray(image.convert("L"))
                assert not name.startswith("bad_"), name
        except OSError as error:
            assert name.startswith("bad_"), f"{name}: {error}"
            mode = repr(error)
        print(f"{name:<20} {len(content):>6} bytes  {mode}")
    save_file(pixels, str(folder / "pixels.safetensors"))


if __name__ == "__main__":
    main()
