#!/usr/bin/env python3
"""Writes the data set `scenes`: hazy rooms with spheres and boxes, and the depth of every pixel.

The farther a surface, the more of its colour is haze, so that depth can be read from the image. The open window has no
depth. Maps of `train` are 16-bit PNG files in millimetres, in which 0 marks pixels without depth; those of `val` are
`.npy` files in metres, in which NaN does. Needs only Python's standard library and always writes the same pixels and depths.

Usage: make_scenes.py [folder]        (default: data/scenes, beside this script)
"""

import math
import random
import struct
import sys
import zlib
from pathlib import Path

SIDE = 32  # pixels
FOCAL = 28.0  # pixels
HAZE = (205, 215, 230)


def scene(rng):
    """Rows of ((r, g, b), depth in metres or None)."""
    far = rng.uniform(5.0, 9.0)
    camera = rng.uniform(1.0, 1.6)
    colour = lambda: tuple(rng.randrange(20, 160) for _ in range(3))
    wall, floor = colour(), colour()
    window = (rng.randrange(2, 22), rng.randrange(1, 5), rng.randrange(5, 9), rng.randrange(4, 7))
    things = []
    for _ in range(rng.randrange(2, 5)):
        depth = rng.uniform(1.5, 0.85 * far)
        size = rng.uniform(0.3, 0.7)
        x = rng.uniform(-0.4, 0.4) * depth
        things.append((depth, size, x, colour(), rng.random() < 0.5))
    things.sort(key=lambda thing: -thing[0])

    def pixel(row, column):
        across, down = (column + 0.5 - SIDE / 2) / FOCAL, (row + 0.5 - SIDE / 2) / FOCAL
        depth, paint = far, wall
        if down > 0 and camera / down < far:
            depth, paint = camera / down, floor
        left, top, width, height = window
        if left <= column < left + width and top <= row < top + height:
            depth, paint = None, (250, 250, 250)
        for distance, size, x, own, sphere in things:
            dx, dy = across * distance - x, down * distance - (camera - size)
            if sphere and dx * dx + dy * dy < size * size:
                depth, paint = distance - math.sqrt(size * size - dx * dx - dy * dy), own
            elif not sphere and max(abs(dx), abs(dy)) < size:
                depth, paint = distance, own
        if depth is not None:
            clear = math.exp(-depth / 5.0)
            paint = tuple(round(own * clear + haze * (1 - clear)) for own, haze in zip(paint, HAZE))
        return paint, depth

    return [[pixel(row, column) for column in range(SIDE)] for row in range(SIDE)]


def png(path, rows, bits, colour_type):
    """`rows` are the bytes of each row of pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def npy(path, rows):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({SIDE}, {SIDE}), }}"
    header = header.ljust(128 - 10 - 1) + "\n"
    numbers = [math.nan if depth is None else depth for row in rows for _, depth in row]
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data)


def main():
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "scenes"
    rng = random.Random(0)
    for split, count in [("train", 32), ("val", 8)]:
        images, maps = home / split / "images", home / split / "depth"
        images.mkdir(parents=True, exist_ok=True)
        maps.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rows = scene(rng)
            png(images / f"{number:02}.png", [bytes(v for colour, _ in row for v in colour) for row in rows], 8, 2)
            if split == "train":
                millimetres = [[0 if depth is None else round(1000 * depth) for _, depth in row] for row in rows]
                png(maps / f"{number:02}.png", [struct.pack(f">{SIDE}H", *row) for row in millimetres], 16, 0)
            else:
                npy(maps / f"{number:02}.npy", rows)


main()
