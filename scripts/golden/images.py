#!/usr/bin/env python3
"""Makes tests/golden/images.safetensors: small PNG, TIFF, BMP, WebP and other files, and how Pillow reads them.

Run with Pillow 13 and numpy 2.4. Every kind of pixels that a format has, compressions, and damage that Pillow passes over or
does not. Writes `file.<name>` with the bytes of the file and, where Pillow reads it, `rgb.<name>` [H, W, 3]; without it, Pillow
refuses the file. 16-bit grey is scaled here: Pillow clips it at 255. JPEG files are those of jpeg.py.
"""
import argparse
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HEIGHT, WIDTH = 11, 19


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind, data, wrong=False):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def packed(values, depth):
    """Rows of numbers [H, N] in `depth` bits each."""
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in values]
    bits = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth:].ravel() for row in values]
    return [np.packbits(row).tobytes() for row in bits]


def filtered(rows, pixel):
    """Rows with the five filters of PNG in turn."""
    out, above = b"", bytes(len(rows[0]) if rows else 0)
    for number, row in enumerate(rows):
        kind = number % 5
        left = bytes(pixel) + row[:-pixel] if len(row) > pixel else bytes(len(row))
        corner = bytes(pixel) + above[:-pixel] if len(row) > pixel else bytes(len(row))

        def guess(a, b, c):
            if kind == 4:
                p = a + b - c
                return min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            return [0, a, b, (a + b) // 2][kind]

        out += bytes([kind]) + bytes((v - guess(*n)) % 256 for v, n in zip(row, zip(left, above, corner)))
        above = row
    return out


PASSES = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]


def png(values, colour, depth, interlaced=False, before=b"", tables=b"", data=None, size=None):
    """Chunks of a PNG of numbers [H, W, C], as a list of (kind, data)."""
    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, int(interlaced))
    pixel = max(1, channels * depth // 8)
    parts = [values] if not interlaced else [values[a::b, c::d] for a, b, c, d in PASSES]
    text = b"".join(filtered(packed(part.reshape(len(part), -1), depth), pixel) for part in parts if part.size)
    return head, zlib.compress(text)


def assembled(head, data, between=()):
    chunks = b"".join(chunk(kind, content) for kind, content in between)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def pngs(rng):
    palette = (b"PLTE", rng.integers(0, 256, 3 * 200, np.uint8).tobytes())
    for colour, name, channels, depths in [(0, "grey", 1, (1, 2, 4, 8, 16)), (2, "rgb", 3, (8, 16)), (3, "palette", 1, (1, 2, 4, 8)),
                                           (4, "grey_alpha", 2, (8, 16)), (6, "rgba", 4, (8, 16))]:
        for depth in depths:
            top = min(2 ** depth, 200 if colour == 3 else 2 ** 16)
            values = rng.integers(0, top, (HEIGHT, WIDTH, channels))
            for interlaced in (False, True):
                head, data = png(values, colour, depth, interlaced)
                between = [palette] if colour == 3 else []
                yield f"{name}_{depth}{'_interlaced' if interlaced else ''}.png", assembled(head, data, between)
            clear = {0: struct.pack(">H", int(values[0, 0, 0])), 2: struct.pack(">HHH", *map(int, values[0, 0, :3]) if colour == 2 else (0, 0, 0)),
                     3: bytes(range(20))}
            if colour in clear:
                yield f"{name}_{depth}_clear.png", assembled(*png(values, colour, depth), between + [(b"tRNS", clear[colour])])
    values = rng.integers(0, 256, (HEIGHT, WIDTH, 3))
    head, data = png(values, 2, 8)
    sign, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    start = sign + chunk(b"IHDR", head)
    whole = start + chunk(b"IDAT", data) + end
    yield "idat_crc.png", start + chunk(b"IDAT", data, wrong=True) + end
    yield "ihdr_crc.png", sign + chunk(b"IHDR", head, wrong=True) + chunk(b"IDAT", data) + end
    yield "text_crc.png", start + chunk(b"tEXt", b"a\0b", wrong=True) + chunk(b"IDAT", data) + end
    yield "text_crc_after.png", start + chunk(b"IDAT", data) + chunk(b"tEXt", b"a\0b", wrong=True) + end
    yield "iend_crc.png", whole[:-1] + b"?"
    yield "iend_missing.png", whole[:-12]
    yield "iend_cut.png", whole[:-7]
    yield "idat_without_crc.png", whole[:-16]
    yield "trailer.png", whole + b"anything"
    yield "half.png", whole[: len(whole) // 2]
    yield "rows_missing.png", assembled(head, zlib.compress(zlib.decompress(data)[:-100]))
    yield "rows_too_many.png", assembled(head, zlib.compress(zlib.decompress(data) + bytes(100)))
    yield "adler_wrong.png", assembled(head, data[:-1] + b"?")
    yield "adler_missing.png", assembled(head, data[:-4])
    yield "adler_half.png", assembled(head, data[:-2])
    yield "one_byte_missing.png", assembled(head, data[:-6])
    third = len(data) // 3
    many = chunk(b"IDAT", data[:third]) + chunk(b"IDAT", b"") + chunk(b"IDAT", data[third:2 * third]) + chunk(b"IDAT", data[2 * third:])
    yield "four_idats.png", start + many + end
    yield "idat_apart.png", start + chunk(b"IDAT", data[:third]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", data[third:]) + end
    yield "bad_zlib_head.png", assembled(head, b"\x18" + data[1:])
    wrong = bytearray(data)
    wrong[len(data) // 2] ^= 0x55
    yield "bad_data.png", assembled(head, bytes(wrong))
    yield "bad_filter.png", assembled(head, zlib.compress(b"\7" + zlib.decompress(data)[1:]))
    yield "gamma.png", assembled(head, data, [(b"gAMA", struct.pack(">I", 10_000)), (b"sRGB", b"\0")])
    yield "unknown_chunk.png", assembled(head, data, [(b"abCd", b"1")])
    yield "critical_chunk.png", assembled(head, data, [(b"ABCD", b"1")])
    yield "no_palette.png", assembled(*png(values[:, :, :1], 3, 8))
    yield "plte_crc.png", start[:8] + chunk(b"IHDR", png(values[:, :, :1], 3, 8)[0]) + chunk(*palette, wrong=True) + chunk(b"IDAT", png(values[:, :, :1], 3, 8)[1]) + end
    yield "beyond_palette.png", assembled(*png(values[:, :, :1], 3, 8), [(b"PLTE", bytes(range(60)))])
    yield "rgb_with_palette.png", assembled(head, data, [palette])
    yield "no_rows.png", assembled(png(values, 2, 8, size=(WIDTH, 0))[0], data)
    yield "depth_3.png", assembled(struct.pack(">IIBBBBB", WIDTH, HEIGHT, 3, 0, 0, 0, 0), data)
    yield "no_idat.png", start + end
    yield "header_twice.png", start + chunk(b"IHDR", head) + chunk(b"IDAT", data) + end
    frames = [Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)) for _ in range(2)]
    yield "animated.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "animated_default.png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)


def tiff(entries, strips, order="<"):
    """A TIFF of tags {tag: (type, [values])} and strips of bytes."""
    sizes = {1: "B", 2: "B", 3: "H", 4: "I", 8: "h", 11: "f"}
    at, body, places = 8, b"", []
    for strip in strips:
        places.append(at + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    entries = dict(entries)
    tiles = 322 in entries
    entries[324 if tiles else 273] = (4, places)
    entries[325 if tiles else 279] = (4, [len(strip) for strip in strips])
    directory, extra = b"", b""
    start = at + len(body)
    behind = start + 2 + 12 * len(entries) + 4
    for tag in sorted(entries):
        kind, values = entries[tag]
        data = struct.pack(order + sizes[kind] * len(values), *values)
        if len(data) > 4:
            place, extra = behind + len(extra), extra + data + b"\0" * (len(data) % 2)
            data = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + body + struct.pack(order + "H", len(entries)) + directory + bytes(4) + extra


def tags(values, depth, photometric, compression=1, **more):
    height, width, channels = values.shape
    entries = {256: (3, [width]), 257: (3, [height]), 258: (3, [depth] * channels), 259: (3, [compression]),
               262: (3, [photometric]), 277: (3, [channels]), 278: (3, [more.pop("rows", height)])}
    return entries | {int(tag[1:]): value for tag, value in more.items()}


def tiffs(rng):
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    smooth = Image.fromarray(np.clip(np.add.outer(np.arange(32), np.arange(48))[..., None] * [2, 3, 1], 0, 255).astype(np.uint8))
    grey = rgb.convert("L")
    for name, image in [("rgb", rgb), ("grey", grey), ("rgba", rgb.convert("RGBA")), ("la", grey.convert("LA")), ("cmyk", rgb.convert("CMYK")),
                        ("palette", rgb.quantize(50)), ("bilevel", grey.convert("1")), ("ycbcr", rgb.convert("YCbCr")), ("lab", None),
                        ("float", grey.convert("F")), ("int", grey.convert("I"))]:
        if image is None:
            from PIL import ImageCms
            lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
            image = ImageCms.applyTransform(rgb, lab)
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield f"{name}_{compression or 'raw'}.tif", encoded(image, "TIFF", compression=compression)
    for name, image in [("rgb", smooth), ("grey", smooth.convert("L")), ("ycbcr", smooth.convert("YCbCr"))]:
        yield f"{name}_jpeg.tif", encoded(image, "TIFF", compression="jpeg")
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield f"bilevel_{compression}.tif", encoded(grey.convert("1"), "TIFF", compression=compression)
    tiles = [np.pad(np.asarray(rgb), ((0, 32 - HEIGHT), (0, 32 - WIDTH), (0, 0)))[y:y + 16, x:x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    tiled = tags(np.asarray(rgb), 8, 2, t322=(3, [16]), t323=(3, [16]))
    del tiled[278]
    yield "made_tiles.tif", tiff(tiled, tiles[:2])
    yield "two_pages.tif", encoded(rgb, "TIFF", save_all=True, append_images=[Image.new("RGB", (5, 5))])
    for depth in (1, 2, 4, 8, 16):
        values = rng.integers(0, 2 ** depth, (HEIGHT, WIDTH, 1))
        for photometric in (0, 1):
            for order in "<>":
                rows = packed(values[:, :, 0], depth)
                if depth == 16 and order == "<":
                    rows = [row.astype("<u2").tobytes() for row in values[:, :, 0]]
                name = f"made_grey_{depth}_{'inverted' if photometric == 0 else 'plain'}_{'little' if order == '<' else 'big'}.tif"
                yield name, tiff(tags(values, depth, photometric), [b"".join(rows)], order)
        if depth <= 8:
            colours = (3, [int(v) for v in rng.integers(0, 65536, 3 * 2 ** depth)])
            yield f"made_palette_{depth}.tif", tiff(tags(values, depth, 3, t320=colours), [b"".join(packed(values[:, :, 0], depth))])
    for channels, name in [(3, "rgb"), (4, "rgba")]:
        for depth in (8, 16):
            values = rng.integers(0, 2 ** depth, (HEIGHT, WIDTH, channels))
            kind = "<u2" if depth == 16 else "u1"
            for extra in ([None] if channels == 3 else [0, 1, 2]):
                more = {} if extra is None else {"t338": (3, [extra])}
                base = tags(values, depth, 2, **more)
                yield f"made_{name}_{depth}_{extra}.tif", tiff(base, [values.astype(kind).tobytes()])
            planes = [values[:, :, k].astype(kind).tobytes() for k in range(channels)]
            more = {"t284": (3, [2])} | ({"t338": (3, [2])} if channels == 4 else {})
            yield f"made_{name}_{depth}_planes.tif", tiff(tags(values, depth, 2, **more), planes)
            if channels == 3:
                steps = np.diff(values, axis=1, prepend=0) % 2 ** depth
                data = zlib.compress(steps.astype(kind).tobytes())
                yield f"made_{name}_{depth}_predicted.tif", tiff(tags(values, depth, 2, 8, t317=(3, [2])), [data])
                strips = [values[k:k + 4].astype(kind).tobytes() for k in range(0, HEIGHT, 4)]
                yield f"made_{name}_{depth}_strips.tif", tiff(tags(values, depth, 2, rows=4), strips)
    values = rng.integers(0, 256, (HEIGHT, WIDTH, 1))
    yield "made_signed_8.tif", tiff(tags(values, 8, 1, t339=(3, [2])), [values.astype(np.uint8).tobytes()])
    yield "made_signed_16.tif", tiff(tags(values, 16, 1, t339=(3, [2])), [values.astype("<i2").tobytes()])
    yield "made_float.tif", tiff(tags(values, 32, 1, t339=(3, [3])), [values.astype("<f4").tobytes()])
    values = rng.integers(0, 256, (HEIGHT, WIDTH, 3))
    for orientation in range(1, 9):
        yield f"made_turned_{orientation}.tif", tiff(tags(values, 8, 2, t274=(3, [orientation])), [values.astype(np.uint8).tobytes()])
    grey_turned = tags(values[:, :, :1], 8, 1, t274=(3, [6]))
    yield "made_turned_grey.tif", tiff(grey_turned, [values[:, :, 0].astype(np.uint8).tobytes()])
    yield "made_no_pixels.tif", tiff(tags(values, 8, 2), [values.astype(np.uint8).tobytes()[:-50]])
    yield "made_fill_order.tif", tiff(tags(values[:, :, :1], 1, 1, t266=(3, [2])), [bytes(rng.integers(0, 256, HEIGHT * 3, np.uint8))])
    whole = encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "half.tif", whole[: len(whole) // 2]
    raw = encoded(rgb, "TIFF")
    yield "end_cut.tif", raw[:-30]


def bmp(width, height, depth, data, compression=0, palette=b"", masks=b"", head=40, colours=0):
    info = struct.pack("<IiiHHIIiiII", head, width, height, 1, depth, compression, len(data), 2835, 2835, colours, 0)
    if head == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, depth)
    info += masks if head == 40 else (masks.ljust(head - 40, b"\0") if head > 40 else b"")
    offset = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + palette + data


def bmps(rng):
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    for name, image in [("rgb", rgb), ("grey", rgb.convert("L")), ("palette", rgb.quantize(50)), ("bilevel", rgb.convert("1")), ("rgba", rgb.convert("RGBA"))]:
        yield f"{name}.bmp", encoded(image, "BMP")
    pad = lambda rows: b"".join(row + b"\0" * (-len(row) % 4) for row in rows)  # noqa: E731
    for depth in (1, 4, 8):
        values = rng.integers(0, 2 ** depth, (HEIGHT, WIDTH))
        palette = rng.integers(0, 256, 4 * 2 ** depth, np.uint8).tobytes()
        yield f"palette_{depth}.bmp", bmp(WIDTH, HEIGHT, depth, pad(packed(values, depth)), palette=palette)
        yield f"top_down_{depth}.bmp", bmp(WIDTH, -HEIGHT, depth, pad(packed(values, depth)), palette=palette)
        three = rng.integers(0, 256, 3 * 2 ** depth, np.uint8).tobytes()
        yield f"os2_{depth}.bmp", bmp(WIDTH, HEIGHT, depth, pad(packed(values, depth)), palette=three, head=12)
        grey = b"".join(bytes([v, v, v, 0]) for v in np.linspace(0, 255, 2 ** depth).astype(int).tolist())
        yield f"grey_{depth}.bmp", bmp(WIDTH, HEIGHT, depth, pad(packed(values, depth)), palette=grey)
    few = rng.integers(0, 256, 4 * 7, np.uint8).tobytes()
    yield "few_colours.bmp", bmp(WIDTH, HEIGHT, 8, pad(packed(rng.integers(0, 7, (HEIGHT, WIDTH)), 8)), palette=few, colours=7)
    words = rng.integers(0, 65536, (HEIGHT, WIDTH)).astype("<u2")
    yield "555.bmp", bmp(WIDTH, HEIGHT, 16, pad([row.tobytes() for row in words]))
    yield "555_masks.bmp", bmp(WIDTH, HEIGHT, 16, pad([row.tobytes() for row in words]), 3, masks=struct.pack("<III", 0x7C00, 0x3E0, 0x1F))
    yield "565.bmp", bmp(WIDTH, HEIGHT, 16, pad([row.tobytes() for row in words]), 3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    yield "444.bmp", bmp(WIDTH, HEIGHT, 16, pad([row.tobytes() for row in words]), 3, masks=struct.pack("<III", 0xF00, 0xF0, 0xF))
    longs = rng.integers(0, 2 ** 32, (HEIGHT, WIDTH)).astype("<u4").tobytes()
    yield "32.bmp", bmp(WIDTH, HEIGHT, 32, longs)
    for name, masks in [("bgrx", (0xFF0000, 0xFF00, 0xFF)), ("rgbx", (0xFF, 0xFF00, 0xFF0000)), ("xbgr", (0xFF000000, 0xFF0000, 0xFF00))]:
        yield f"32_{name}.bmp", bmp(WIDTH, HEIGHT, 32, longs, 3, masks=struct.pack("<III", *masks))
    for head, name in [(108, "v4"), (124, "v5")]:
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        yield f"32_{name}.bmp", bmp(WIDTH, HEIGHT, 32, longs, 3, masks=masks, head=head)
        yield f"24_{name}.bmp", bmp(WIDTH, HEIGHT, 24, pad([bytes(range(3 * WIDTH))] * HEIGHT), head=head)
    yield "24_top_down.bmp", bmp(WIDTH, -HEIGHT, 24, pad([bytes(range(3 * WIDTH))] * HEIGHT))
    palette = rng.integers(0, 256, 4 * 256, np.uint8).tobytes()
    runs = b"".join(bytes([9, 3 + y, 10, 7]) + b"\0\0" for y in range(HEIGHT)) + b"\0\1"
    yield "rle8.bmp", bmp(WIDTH, HEIGHT, 8, runs, 1, palette)
    mixed = b"".join(bytes([4, y, 0, 5, 1, 2, 3, 4, 5, 0, 10, 9]) + b"\0\0" for y in range(HEIGHT)) + b"\0\1"
    yield "rle8_mixed.bmp", bmp(WIDTH, HEIGHT, 8, mixed, 1, palette)
    jump = bytes([5, 1, 0, 2, 3, 2, 4, 2]) + b"\0\0" + bytes([19, 3]) + b"\0\1"
    yield "rle8_jumps.bmp", bmp(WIDTH, HEIGHT, 8, jump, 1, palette)
    nibbles = b"".join(bytes([9, 0x31, 10, 0x7A]) + b"\0\0" for _ in range(HEIGHT)) + b"\0\1"
    yield "rle4.bmp", bmp(WIDTH, HEIGHT, 4, nibbles, 2, palette[:64])
    yield "rle8_half.bmp", bmp(WIDTH, HEIGHT, 8, runs[: len(runs) // 2], 1, palette)
    yield "rle8_short.bmp", bmp(WIDTH, HEIGHT, 8, runs[: len(runs) // 2] + b"\0\1", 1, palette)
    whole = encoded(rgb, "BMP")
    yield "half.bmp", whole[: len(whole) // 2]
    yield "end_cut.bmp", whole[:-1]
    yield "end_cut_more.bmp", whole[:-5]


def webps(rng):
    y, x = np.mgrid[:24, :37]
    waves = np.stack([np.sin(x / 5 + k) * np.cos(y / (4 + k)) for k in range(4)], -1) * 90 + 128
    image = Image.fromarray(np.clip(waves[:, :, :3], 0, 255).astype(np.uint8))
    clear = Image.fromarray(np.clip(waves, 0, 255).astype(np.uint8))
    for name, picture in [("rgb", image), ("rgba", clear), ("grey", image.convert("L"))]:
        yield f"{name}_lossless.webp", encoded(picture, "WEBP", lossless=True)
        for quality in (10, 80, 100):
            yield f"{name}_{quality}.webp", encoded(picture, "WEBP", quality=quality)
    yield "exact.webp", encoded(clear, "WEBP", lossless=True, exact=True)
    yield "palette.webp", encoded(image.quantize(7), "WEBP", lossless=True)
    yield "animated.webp", encoded(image, "WEBP", save_all=True, append_images=[Image.new("RGB", image.size)], lossless=True)
    yield "animated_clear.webp", encoded(clear, "WEBP", save_all=True, append_images=[Image.new("RGBA", image.size)], lossless=True)
    whole = encoded(image, "WEBP", quality=80)
    yield "half.webp", whole[: len(whole) // 2]
    yield "end_cut.webp", whole[:-3]
    yield "trailer.webp", whole + b"more"
    lossless = encoded(image, "WEBP", lossless=True)
    yield "half_lossless.webp", lossless[: len(lossless) // 2]


def others(rng):
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    for ending, format in [("gif", "GIF"), ("ppm", "PPM"), ("tga", "TGA"), ("ico", "ICO"), ("jp2", "JPEG2000"), ("avif", "AVIF"), ("pcx", "PCX"), ("dds", "DDS"),
                           ("qoi", "QOI"), ("sgi", "SGI"), ("psd", None), ("heic", None), ("jxl", None), ("svg", None), ("html", None), ("empty", None), ("npy", None)]:
        made = {"psd": b"8BPS\0\1" + bytes(20), "heic": b"\0\0\0\x18ftypheic" + bytes(12), "jxl": b"\xff\x0a" + bytes(20), "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                "html": b"<!DOCTYPE html><html>404</html>", "empty": b"", "npy": b"\x93NUMPY\1\0v\0{}"}
        try:
            yield f"other.{ending}", made[ending] if format is None else encoded(rgb, format)
        except (OSError, KeyError, ValueError) as error:
            print(f"no {format}: {error!r}")


def more_tiffs(rng):
    """Variants of TIFF that Pillow writes with libtiff."""
    rgb = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) // 16 * 16)
    grey = rgb.convert("L")
    wide = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), np.uint16))
    kinds = [("rgb", rgb), ("grey", grey), ("rgba", rgb.convert("RGBA")), ("la", grey.convert("LA")), ("rgbx", rgb.convert("RGBX")),
             ("cmyk", rgb.convert("CMYK"))]
    for name, image in [*kinds, ("wide", wide)]:
        yield f"more_{name}.tif", encoded(image, "TIFF", compression=None)
        for compression in ("tiff_lzw", "tiff_adobe_deflate"):
            yield f"more_{name}_{compression}_predicted.tif", encoded(image, "TIFF", compression=compression, tiffinfo={317: 2})
    for name, image in kinds[:2]:
        yield f"more_{name}_big.tif", encoded(image, "TIFF", big_tiff=True)
    for compression in ("lzma", "zstd"):
        yield f"more_rgb_{compression}.tif", encoded(rgb, "TIFF", compression=compression)


def read(data):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode.startswith("I;16"):
            image = Image.fromarray(np.round(np.asarray(image).astype(float) / 257).astype(np.uint8))
        if image.mode in ("I", "F"):
            return None
        return np.ascontiguousarray(image.convert("RGB"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests" / "golden")
    tensors = {}
    rng = np.random.default_rng(0)
    for make in (pngs, tiffs, bmps, webps, others, more_tiffs):
        for name, data in make(rng):
            assert f"file.{name}" not in tensors, name
            tensors[f"file.{name}"] = np.frombuffer(data, np.uint8)
            try:
                pixels = read(data)
                if pixels is not None:
                    tensors[f"rgb.{name}"] = pixels
            except Exception as error:  # whatever Pillow's readers raise
                print(f"{name}: {error!r}"[:150])
    count = lambda kind: sum(name.startswith(kind) for name in tensors)  # noqa: E731
    print(f"{count('rgb.')} of {count('file.')} files are read by Pillow")
    save_file(tensors, str(parser.parse_args().out / "images.safetensors"))


if __name__ == "__main__":
    main()
