#!/usr/bin/env python3
"""Writes the data set `discs_and_squares`: images of 64x64 pixels, and a text file of boxes for each in the format of YOLO.

Needs only Python's standard library and always writes the same pixels and boxes.

Usage: make_images.py [folder]        (default: data/discs_and_squares, beside this script)
"""

import random
import struct
import sys
import zlib
from pathlib import Path

SIDE = 64  # pixels


def scene(rng):
    """Rows of (r, g, b), and (label, centre x, centre y, radius) of each object."""
    background = tuple(rng.randrange(0, 90) for _ in range(3))
    objects = []
    for _ in range(rng.randrange(0, 4) if rng.random() < 0.3 else 2):
        radius = rng.randrange(7, 14)
        x, y = (rng.randrange(radius, SIDE - radius + 1) for _ in range(2))
        if all(max(abs(x - ox), abs(y - oy)) > radius + other for _, ox, oy, other in objects):
            objects.append((rng.randrange(2), x, y, radius))
    colours = [tuple(rng.randrange(130, 256) for _ in range(3)) for _ in objects]

    def pixel(row, column):
        for (label, x, y, radius), colour in zip(objects, colours):
            dx, dy = column + 0.5 - x, row + 0.5 - y
            inside = dx * dx + dy * dy < radius * radius if label == 0 else max(abs(dx), abs(dy)) < radius
            if inside:
                return colour
        return background

    return [[pixel(row, column) for column in range(SIDE)] for row in range(SIDE)], objects


def png(path, rows):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(v for colour in row for v in colour) for row in rows), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def main():
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data" / "discs_and_squares"
    rng = random.Random(0)
    for split, count in [("train", 24), ("val", 8)]:
        images, labels = home / "images" / split, home / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rows, objects = scene(rng)
            png(images / f"{number:02}.png", rows)
            lines = [
                f"{label} {x / SIDE:.6f} {y / SIDE:.6f} {2 * radius / SIDE:.6f} {2 * radius / SIDE:.6f}\n"
                for label, x, y, radius in objects
            ]
            if lines:
                (labels / f"{number:02}.txt").write_text("".join(lines))


main()
