#!/usr/bin/env python3
"""Makes tests/golden/jpeg.safetensors: small JPEG files of every layout, and how Pillow reads them.

Run with Pillow 13 (libjpeg-turbo 3.2) and numpy 2.4. Sampling factors × structures of scans, written by the encoder below,
because Pillow writes few of them; sizes around the edges of blocks; files with damage that Pillow passes over. Writes
`file.<name>` with the bytes of the file and, where Pillow reads it, `rgb.<name>` [H, W, 3]; without it, Pillow refuses the file.
Files whose names begin with `lenient_` are read by the program although Pillow refuses them.
"""
import argparse
import io
import pathlib
import struct

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

ZIGZAG = sorted(range(64), key=lambda k: (k // 8 + k % 8, (k // 8 if (k // 8 + k % 8) % 2 else k % 8)))
Y, X = np.mgrid[:8, :8]
COSINES = np.cos((2 * X + 1) * Y * np.pi / 16) * np.where(Y == 0, np.sqrt(1 / 8), 1 / 2)


def picture(height, width, components, rng):
    """Hard edges in all components, waves and noise: [height, width, components]."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 3 + k) * np.cos(y / (2 + k)) for k in range(components)]
    pixels = np.stack(waves, -1) * 100 + 128
    pixels[:, width // 2:] = 255 - pixels[:, width // 2:]
    pixels[height // 3: height // 2] = 255 - pixels[height // 3: height // 2]
    return np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255)


class Bits:
    def __init__(self):
        self.text = []

    def put(self, value, count):
        if count:
            self.text.append(format(value, f"0{count}b"))

    def bytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        data = bytes(int(text[k:k + 8], 2) for k in range(0, len(text), 8))
        return data.replace(b"\xff", b"\xff\0")


class Table:
    """Codes for all symbols: short ones for a few, so that every length up to 16 bits occurs."""

    def __init__(self, symbols, rng):
        symbols = list(rng.permutation(symbols))
        counts = [0] * 16
        left, code = len(symbols), 0
        for length in range(1, 17):
            space = (code << 1)
            free = (1 << length) - space - 1  # all ones is no code
            rest = 16 - length
            # As few as leave room for the others.
            take = min(left, max(0 if length < 3 else 1, left - (free << rest) // 2)) if rest else left
            take = min(take, free)
            counts[length - 1] = take
            left -= take
            code = space + take
        assert left == 0
        self.counts, self.symbols = counts, symbols
        self.codes, code, at = {}, 0, 0
        for length, count in enumerate(counts, 1):
            for _ in range(count):
                self.codes[int(symbols[at])] = (code, length)
                code, at = code + 1, at + 1
            code <<= 1

    def segment(self, place):
        return segment(0xC4, bytes([place]) + bytes(self.counts) + bytes(int(s) for s in self.symbols))


def segment(kind, content):
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def magnitude(value):
    size = abs(int(value)).bit_length()
    return size, int(value) if value >= 0 else int(value) + (1 << size) - 1


class Jpeg:
    """Coefficients of components with sampling factors `factors` [(h, v)], and writers of scans."""

    def __init__(self, pixels, factors, rng, step=6, ids=None, restart=0):
        self.height, self.width = pixels.shape[:2]
        self.factors, self.restart = factors, restart
        self.ids = ids or list(range(1, len(factors) + 1))
        self.most = (max(h for h, _ in factors), max(v for _, v in factors))
        self.mcus = (-(-self.width // (8 * self.most[0])), -(-self.height // (8 * self.most[1])))
        self.steps = np.minimum(step + 2 * (X + Y), 255)
        self.blocks, self.real = [], []
        for k, (h, v) in enumerate(factors):
            rows, columns = self.mcus[1] * v * 8, self.mcus[0] * h * 8
            # Samples at the centres of their areas, edges repeated.
            at_y = np.minimum((np.arange(rows) * self.most[1]) // v, self.height - 1)
            at_x = np.minimum((np.arange(columns) * self.most[0]) // h, self.width - 1)
            samples = pixels[at_y][:, at_x, k] - 128
            cut = samples.reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2)
            self.blocks.append(np.round(COSINES @ cut @ COSINES.T / self.steps).astype(int))
            real = (-(-self.width * h // self.most[0]), -(-self.height * v // self.most[1]))
            self.real.append((-(-real[0] // 8), -(-real[1] // 8)))
        self.dc, self.ac = Table(range(12), rng), Table(range(256), rng)
        self.missing = {}

    def head(self, kind):
        frame = struct.pack(">BHHB", 8, self.height, self.width, len(self.factors))
        frame += b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(self.ids, self.factors))
        steps = bytes(int(self.steps[k // 8, k % 8]) for k in ZIGZAG)
        start = b"\xff\xd8" + segment(0xDB, b"\0" + steps) + segment(kind, frame)
        tables = self.dc.segment(0) + self.ac.segment(0x10)
        return start + tables + (segment(0xDD, struct.pack(">H", self.restart)) if self.restart else b"")

    def order(self, parts):
        """The blocks of a scan of the components `parts`, a list for each MCU."""
        if len(parts) == 1:
            k, (wide, high) = parts[0], self.real[parts[0]]
            return [[(k, self.blocks[k][y, x])] for y in range(high) for x in range(wide)]
        mcus = []
        for my in range(self.mcus[1]):
            for mx in range(self.mcus[0]):
                mcus.append([(k, self.blocks[k][my * v + y, mx * h + x]) for k in parts
                             for h, v in [self.factors[k]] for y in range(v) for x in range(h)])
        return mcus

    def scan(self, parts, first=0, last=63, high=0, low=0, progressive=False):
        head = bytes([len(parts)]) + b"".join(bytes([self.ids[k], 0]) for k in parts)
        head += bytes([first, last, high << 4 | low])
        mcus, out = self.order(parts), []
        interval = self.restart or len(mcus)
        for number, start in enumerate(range(0, len(mcus), interval)):
            bits = Bits()
            previous = dict.fromkeys(parts, 0)
            writer = self.progressive if progressive else self.sequential
            writer(bits, mcus[start:start + interval], previous, first, last, high, low)
            if number:
                out.append(bytes([0xFF, 0xD0 + (number - 1) % 8]))
            out.append(bits.bytes())
        return segment(0xDA, head) + b"".join(out)

    def put_dc(self, bits, change):
        size, value = magnitude(change)
        bits.put(*self.dc.codes[size])
        bits.put(value, size)

    def sequential(self, bits, mcus, previous, *_):
        for mcu in mcus:
            for k, block in mcu:
                self.put_dc(bits, block[0, 0] - previous[k])
                previous[k] = block[0, 0]
                self.put_band(bits, [block[p // 8, p % 8] for p in ZIGZAG[1:]], lambda: bits.put(*self.ac.codes[0]))

    def put_band(self, bits, values, end):
        run, done = 0, max((k for k, v in enumerate(values) if v), default=-1)
        for value in values[:done + 1]:
            if value == 0:
                run += 1
                continue
            while run > 15:
                bits.put(*self.ac.codes[0xF0])
                run -= 16
            size, number = magnitude(value)
            bits.put(*self.ac.codes[run << 4 | size])
            bits.put(number, size)
            run = 0
        if done + 1 < len(values):
            end()

    def progressive(self, bits, mcus, previous, first, last, high, low):
        cut = lambda v: int(np.sign(v)) * (abs(int(v)) >> low)  # noqa: E731: towards zero, as AC is
        empty = 0

        def flush():
            nonlocal empty
            if empty:
                size = empty.bit_length() - 1
                bits.put(*self.ac.codes[size << 4])
                bits.put(empty - (1 << size), size)
                empty = 0

        def one_more():
            nonlocal empty
            empty += 1

        for mcu in mcus:
            for k, block in mcu:
                values = [block[p // 8, p % 8] for p in ZIGZAG[first:last + 1]]
                if first == 0 and high == 0:
                    value = int(values[0]) >> low
                    self.put_dc(bits, value - previous[k])
                    previous[k] = value
                elif first == 0:
                    bits.put(int(values[0]) >> low & 1, 1)
                elif high == 0:
                    values = [cut(v) for v in values]
                    if any(values):
                        flush()
                    self.put_band(bits, values, one_more)
                else:
                    self.put_refined(bits, [int(v) for v in values], low)
        flush()

    def put_refined(self, bits, values, low):
        before = [abs(v) >> (low + 1) for v in values]
        now = [abs(v) >> low for v in values]
        done = max((k for k in range(len(values)) if now[k] and not before[k]), default=-1)
        run, held = 0, []
        for k in range(done + 1):
            if before[k]:
                held.append(now[k] & 1)
                continue
            if now[k] == 0:
                run += 1
                if run == 16:
                    bits.put(*self.ac.codes[0xF0])
                    for bit in held:
                        bits.put(bit, 1)
                    run, held = 0, []
                continue
            bits.put(*self.ac.codes[run << 4 | 1])
            bits.put(int(values[k] > 0), 1)
            for bit in held:
                bits.put(bit, 1)
            run, held = 0, []
        if done + 1 < len(values):
            bits.put(*self.ac.codes[0])
            for k in range(done + 1, len(values)):
                if before[k]:
                    bits.put(now[k] & 1, 1)


def structures(count):
    """Lists of scans by name: (progressive, [(parts, first, last, high, low)])."""
    every = list(range(count))
    each = [([k], 0, 63, 0, 0) for k in every]
    yield "one_scan", False, [(every, 0, 63, 0, 0)]
    if count > 1:
        yield "each_alone", False, each
        yield "backwards", False, each[::-1]
        yield "first_alone", False, [([0], 0, 63, 0, 0), (every[1:], 0, 63, 0, 0)]
        yield "last_alone", False, [(every[:-1], 0, 63, 0, 0), ([count - 1], 0, 63, 0, 0)]
    yield "bands", True, [(every, 0, 0, 0, 0)] + [([k], a, b, 0, 0) for k in every for a, b in ((1, 5), (6, 63))]
    refined = [(every, 0, 0, 0, 1)] + [([k], 1, 63, 0, 2) for k in every]
    refined += [([k], 1, 63, 2, 1) for k in every] + [(every, 0, 0, 1, 0)] + [([k], 1, 63, 1, 0) for k in every]
    yield "refined", True, refined
    yield "dc_alone", True, [([k], 0, 0, 0, 0) for k in every] + [([k], 1, 63, 0, 0) for k in every]


SAMPLING = {
    "grey": [(1, 1)], "grey_2x2": [(2, 2)], "grey_3x1": [(3, 1)],
    "444": [(1, 1)] * 3, "444_2x2": [(2, 2)] * 3, "422": [(2, 1), (1, 1), (1, 1)], "440": [(1, 2), (1, 1), (1, 1)],
    "420": [(2, 2), (1, 1), (1, 1)], "411": [(4, 1), (1, 1), (1, 1)], "441": [(1, 4), (1, 1), (1, 1)],
    "410": [(4, 2), (1, 1), (1, 1)], "4x4": [(4, 4), (1, 1), (1, 1)], "3x1": [(3, 1), (1, 1), (1, 1)],
    "3x3": [(3, 3), (1, 1), (1, 1)], "422_twice": [(2, 2), (1, 2), (1, 2)], "440_twice": [(2, 2), (2, 1), (2, 1)],
    "mixed": [(2, 2), (2, 1), (1, 2)], "one_small": [(2, 1), (2, 1), (1, 1)], "small_luma": [(1, 1), (2, 2), (2, 2)],
    "odd": [(2, 2), (1, 1), (2, 1)], "fraction": [(3, 1), (2, 1), (1, 1)], "fraction_down": [(2, 3), (1, 2), (1, 1)],
    "cmyk": [(1, 1)] * 4, "cmyk_420": [(2, 2), (1, 1), (1, 1), (2, 2)],
}


def saved(array, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def files(rng):
    for sampling, factors in SAMPLING.items():
        for structure, progressive, scans in structures(len(factors)):
            blocks = sum(h * v for h, v in factors)
            if blocks > 10 and any(len(parts) > 1 for parts, *_ in scans):
                continue  # more than an MCU may have
            for restart in (0, 3):
                if restart and structure not in ("one_scan", "each_alone", "refined"):
                    continue
                jpeg = Jpeg(picture(21, 37, len(factors), rng), factors, rng, restart=restart)
                data = jpeg.head(0xC2 if progressive else 0xC0)
                data += b"".join(jpeg.scan(*scan, progressive=progressive) for scan in scans)
                yield f"{sampling}.{structure}{'.restarts' if restart else ''}", data + b"\xff\xd9"
    for height, width in [(1, 1), (2, 3), (3, 2), (8, 8), (16, 16), (17, 1), (1, 17), (5, 4), (9, 5), (16, 33), (33, 18)]:
        image = picture(height, width, 3, rng)
        for subsampling in range(3):
            yield f"{height}x{width}.pillow_{subsampling}", saved(image, subsampling=subsampling, quality=92)
        jpeg = Jpeg(image, SAMPLING["440"], rng)
        yield f"{height}x{width}.440", jpeg.head(0xC0) + jpeg.scan([0, 1, 2]) + b"\xff\xd9"
    image = picture(48, 64, 3, rng)
    for quality in (5, 50, 75, 100):
        for subsampling in range(3):
            for name, options in [("baseline", {}), ("optimized", {"optimize": True}), ("progressive", {"progressive": True}),
                                  ("restarts", {"restart_marker_blocks": 2})]:
                if name == "baseline" or quality == 75:
                    yield f"q{quality}.{subsampling}.{name}", saved(image, quality=quality, subsampling=subsampling, **options)
    for mode in ("L", "CMYK", "YCbCr"):
        yield f"{mode}.baseline", saved(image, mode, quality=80)
        yield f"{mode}.progressive", saved(image, mode, quality=80, progressive=True)
    yield from colours(rng)
    yield from damaged(image, rng)


def colours(rng):
    image = picture(21, 37, 4, rng)
    adobe = lambda transform: segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))  # noqa: E731
    jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    for name, count, ids, marks in [
        ("rgb_by_ids", 3, b"RGB", b""), ("ycc_by_ids", 3, [1, 2, 3], b""), ("ids_from_0", 3, [0, 1, 2], b""),
        ("rgb_by_adobe", 3, [1, 2, 3], adobe(0)), ("ycc_by_adobe", 3, [1, 2, 3], adobe(1)), ("adobe_2", 3, [1, 2, 3], adobe(2)),
        ("jfif_before_adobe", 3, [1, 2, 3], jfif + adobe(0)), ("jfif_rgb_ids", 3, b"RGB", jfif),
        ("adobe_rgb_ids", 3, b"RGB", adobe(1)),
        ("cmyk_by_adobe", 4, [1, 2, 3, 4], adobe(0)), ("ycck_by_adobe", 4, [1, 2, 3, 4], adobe(2)),
        ("cmyk_ids", 4, b"CMYK", b""), ("two", 2, [1, 2], b""),
    ]:
        jpeg = Jpeg(image[:, :, :count], [(1, 1)] * count, rng, ids=list(ids))
        head = jpeg.head(0xC0)
        yield f"colours.{name}", head[:2] + marks + head[2:] + jpeg.scan(list(range(count))) + b"\xff\xd9"


def damaged(image, rng):
    """Files that are damaged, or nearly."""
    whole = saved(image, quality=80)
    progressive = saved(image, quality=80, progressive=True)
    yield "damaged.trailer_without_end", whole[:-2] + b"no marker here" * 9
    yield "damaged.trailer", whole + b"\xff\xd8\xff more"
    yield "lenient_no_end", whole[:-2]
    yield "refused_progressive_no_end", progressive[:-2]
    yield "lenient_half_an_end", whole[:-1]
    for name, data in [("baseline", whole), ("progressive", progressive)]:
        for part in (3, 5, 7, 9):
            yield f"cut.{name}_{part}", data[: len(data) * part // 10]
    yield "cut.last_byte", whole[:-3]
    for name in ("grey", "444", "420"):
        jpeg = Jpeg(picture(40, 48, len(SAMPLING[name]), rng), SAMPLING[name], rng, restart=1)
        scan = jpeg.scan(list(range(len(SAMPLING[name]))))
        head, places = jpeg.head(0xC0), [k for k in range(len(scan) - 1) if scan[k] == 255 and 0xD0 <= scan[k + 1] <= 0xD7]
        a, b, c = places[1], places[2], places[5]
        for what, data in [
            ("early_end", scan[: len(scan) // 2]), ("extra_bytes", scan[:a] + b"extra bytes" + scan[a:]),
            ("lost_interval", scan[:a] + scan[b:]), ("lost_four", scan[:a] + scan[c:]), ("twice", scan[:b] + scan[a:]),
            ("short_interval", scan[:a + 3] + scan[b:]), ("fill_bytes", scan[:a] + b"\xff\xff\xff" + scan[a:]),
            ("wrong_number", scan[:a + 1] + b"\xd6" + scan[a + 2:]), ("other_marker", scan[:a] + b"\xff\xe5" + scan[a + 2:]),
        ]:
            yield f"damaged.{name}_{what}", head + data + b"\xff\xd9"
    for structure in ("one_scan", "each_alone"):
        scans = next(scans for name, _, scans in structures(3) if name == structure)
        jpeg = Jpeg(picture(21, 37, 3, rng), SAMPLING["420"], rng)
        parts = [jpeg.scan(*scan) for scan in scans]
        between = segment(0xFE, b"a comment") + b"\0\0rubbish"
        yield f"damaged.comments_{structure}", jpeg.head(0xC1) + between + between.join(parts) + between + b"\xff\xd9"
    # A frame of Motion JPEG has no Huffman tables.
    motion = saved(image, quality=80)
    at = motion.index(b"\xff\xc4")
    while motion[at:at + 2] == b"\xff\xc4":
        motion = motion[:at] + motion[at + 2 + struct.unpack(">H", motion[at + 2:at + 4])[0]:]
    yield "motion_jpeg", motion
    each = [jpeg.scan([k]) for k in range(3)]
    yield "damaged.a_component_is_missing", jpeg.head(0xC0) + each[0] + each[1] + b"\xff\xd9"
    jpeg = Jpeg(picture(21, 37, 3, rng), SAMPLING["420"], rng)
    yield "progressive_dc_only", jpeg.head(0xC2) + jpeg.scan([0, 1, 2], 0, 0, progressive=True) + b"\xff\xd9"
    low = [jpeg.scan([k], 1, 20, progressive=True) for k in range(3)]
    yield "damaged.low_bands_only", jpeg.head(0xC2) + jpeg.scan([0, 1, 2], 0, 0, progressive=True) + b"".join(low) + b"\xff\xd9"
    for kind, name in [(0xC3, "lossless"), (0xC9, "arithmetic"), (0xCB, "arithmetic_lossless"), (0xC5, "hierarchical")]:
        yield f"process.{name}", jpeg.head(kind) + jpeg.scan([0, 1, 2]) + b"\xff\xd9"
    deep = jpeg.head(0xC1)
    at = deep.index(b"\xff\xc1") + 4
    yield "refused_twelve_bits", deep[:at] + b"\x0c" + deep[at + 1:] + jpeg.scan([0, 1, 2]) + b"\xff\xd9"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden")
    tensors, read = {}, 0
    for name, data in files(np.random.default_rng(0)):
        assert f"file.{name}" not in tensors, name
        tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
        try:
            with Image.open(io.BytesIO(data)) as image:
                tensors[f"rgb.{name}"] = np.ascontiguousarray(image.convert("RGB"))
            read += 1
        except (OSError, SyntaxError) as error:
            print(f"{name}: {error!r}")
    print(f"{read} of {sum(name.startswith('file.') for name in tensors)} files are read by Pillow")
    save_file(tensors, str(parser.parse_args().out / "jpeg.safetensors"))


if __name__ == "__main__":
    main()
