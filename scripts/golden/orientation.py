#!/usr/bin/env python3
"""Makes tests/golden/orientation.safetensors: small files whose metadata turn them, as stored and as turned by Pillow.

Run with Pillow 13 and numpy 2.4. For every file writes `file.<name>`, `stored.<name>` (`Image.open`) and `upright.<name>`
(`ImageOps.exif_transpose` of it), [H, W, 3].
"""
import argparse
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def segment(content):
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def exif(orientation, order="<", kind=3, before=()):
    """EXIF data with one tag more than `before`."""
    entries = [*before, (0x0112, kind, orientation)]
    body = b"".join(struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + ("I" if kind == 4 else "HH"), *([v] if kind == 4 else [v, 0]))
                    for tag, kind, v in entries)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries)) + body + bytes(4)


def files(rng):
    image = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8))
    jpeg = encoded(image, "JPEG", quality=95, subsampling=0)
    with_segments = lambda *contents: jpeg[:2] + b"".join(map(segment, contents)) + jpeg[2:]  # noqa: E731
    for orientation in range(1, 9):
        data = Image.Exif()
        data[0x0112] = orientation
        for format, options in [("JPEG", {"subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True})]:
            yield f"{orientation}.{format.lower()}", encoded(image, format, exif=data, **options)
    for value in (0, 9, 300):
        yield f"impossible_{value}.jpeg", with_segments(b"Exif\0\0" + exif(value))
    yield "big_endian.jpeg", with_segments(b"Exif\0\0" + exif(6, ">"))
    yield "long.jpeg", with_segments(b"Exif\0\0" + exif(8, "<", 4))
    yield "after_others.jpeg", with_segments(b"Exif\0\0" + exif(3, ">", 3, [(0x0100, 3, 14), (0x0101, 3, 9)]))
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation=\"%d\"/></x:xmpmeta>"
    yield "xmp.jpeg", with_segments(xmp % 6)
    yield "exif_before_xmp.jpeg", with_segments(xmp % 6, b"Exif\0\0" + exif(3))
    yield "xmp_element.jpeg", with_segments(xmp.replace(b' tiff:Orientation="%d"/', b"><tiff:Orientation>%d</tiff:Orientation") % 8)
    yield "no_exif.jpeg", jpeg
    yield "damaged_exif.jpeg", with_segments(b"Exif\0\0II*\0\xff\xff\xff\x7f")
    yield "thumbnail_after.jpeg", with_segments(b"Exif\0\0" + exif(6), b"Exif\0\0" + exif(1))
    png = encoded(image, "PNG")
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    yield "exif_after_pixels.png", png[:-12] + chunk(b"eXIf", exif(6)) + png[-12:]
    yield "xmp.png", png[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp % 5) + png[33:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden")
    tensors = {}
    for name, data in files(np.random.default_rng(0)):
        tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
        with Image.open(io.BytesIO(data)) as image:
            tensors[f"stored.{name}"] = np.ascontiguousarray(image.convert("RGB"))
            tensors[f"upright.{name}"] = np.ascontiguousarray(ImageOps.exif_transpose(image).convert("RGB"))
        print(name, tensors[f"stored.{name}"].shape, tensors[f"upright.{name}"].shape)
    save_file(tensors, str(parser.parse_args().out / "orientation.safetensors"))


if __name__ == "__main__":
    main()
