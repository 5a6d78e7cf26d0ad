#!/usr/bin/env python3
"""Tests the CUDA emulator through the driver and cuBLAS interfaces, with the kernels of test_kernels/.

    tests/cuda_emulator/test.py            # builds the libraries into a temporary folder
    tests/cuda_emulator/test.py FOLDER     # into this one, which keeps them for the next time

A case runs in a process of its own, because a mistake that the emulator finds ends it.
"""

import ctypes
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Device:
    """The driver interface, as little as the cases need. Arrays are Python lists with a struct type code."""

    def __init__(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        result = getattr(self.driver, name)(*arguments)
        if result != 0:
            raise RuntimeError(f"{name}: {result}")

    def empty(self, count, code):
        start = ctypes.c_void_p()
        self.call("cuMemAllocAsync", ctypes.byref(start), ctypes.c_size_t(count * struct.calcsize(code)), None)
        return start

    def array(self, values, code):
        start = self.empty(len(values), code)
        data = struct.pack(f"{len(values)}{code}", *values)
        self.call("cuMemcpyHtoDAsync_v2", start, data, ctypes.c_size_t(len(data)), None)
        return start

    def read(self, start, count, code):
        data = ctypes.create_string_buffer(count * struct.calcsize(code))
        self.call("cuMemcpyDtoHAsync_v2", data, start, ctypes.c_size_t(len(data)), None)
        return list(struct.unpack(f"{count}{code}", data.raw))

    def function(self, name):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), b"// PTX")
        self.call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def launch(self, name, grid, block, *parameters, shared=0):
        values = [ctypes.c_int(value) if isinstance(value, int) else value for value in parameters]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.call("cuLaunchKernel", self.function(name), *grid, *block, shared, None, pointers, None)


def bf16(value):
    """The bits of a number that has at most 8 significant ones."""
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


# ---- cases: each prints one JSON value ----

def block_sum(device):
    values = [i % 7 for i in range(3000)]
    total = device.array([0], "f")
    device.launch("check_block_sum", (6, 1, 1), (512, 1, 1), device.array(values, "f"), total, len(values))
    return device.read(total, 1, "f")[0] - sum(values)


def lanes(device):
    out = device.empty(32 * 8, "i")
    device.launch("check_lanes", (1, 1, 1), (32, 1, 1), out)
    return device.read(out, 32 * 8, "i")


def atomics(device):
    total, narrow, most, count = (device.array([0], code) for code in "fHiI")
    device.launch("check_atomics", (50, 2, 1), (96, 1, 1), total, narrow, most, count)
    return [device.read(value, 1, code)[0] for value, code in ((total, "f"), (narrow, "H"), (most, "i"), (count, "I"))]


def product(device):
    numbers, worst = random.Random(1), 0.0
    for m, n, k in ((16, 16, 16), (7, 30, 50), (33, 9, 20)):
        pitch = (max(n, k) + 7) // 8 * 8
        a = [[numbers.randrange(-100, 100) / 16 for _ in range(pitch)] for _ in range(m)]
        b = [[numbers.randrange(-100, 100) / 16 for _ in range(pitch)] for _ in range(k)]
        c = device.empty(m * n, "f")
        device.launch("check_product", ((n + 15) // 16, (m + 15) // 16, 1), (32, 1, 1),
                      *(device.array([bf16(x) for row in matrix for x in row], "H") for matrix in (a, b)),
                      c, m, n, k, pitch, shared=1024)
        got = device.read(c, m * n, "f")
        expected = [sum(a[i][p] * b[p][j] for p in range(k)) for i in range(m) for j in range(n)]
        worst = max(worst, max(abs(x - y) for x, y in zip(got, expected)))
    return worst


def race(device, synchronised):
    out = device.empty(64, "f")
    device.launch("check_race", (1, 1, 1), (64, 1, 1), out, synchronised)
    return [None if x != x else x for x in device.read(out, 64, "f")]


def copy(device, wait):
    out = device.empty(4, "f")
    device.launch("check_unfinished_copy", (1, 1, 1), (1, 1, 1), device.array([1, 2, 3, 4], "f"), out, wait)
    return [None if x != x else x for x in device.read(out, 4, "f")]


def gemm(device):
    blas, handle = ctypes.CDLL("libcublas.so.13"), ctypes.c_void_p()
    blas.cublasCreate_v2(ctypes.byref(handle))
    numbers, worst, batch = random.Random(2), 0.0, 3
    for code, type_number, code_c, type_c in (("f", 0, "f", 0), ("H", 14, "H", 14), ("H", 14, "f", 0), ("d", 1, "d", 1)):
        for m, n, k in ((5, 7, 9), (33, 70, 3)):
            for ta in (0, 1):
                for tb in (0, 1):
                    lda, ldb, ldc = (k if ta else m) + 2, (n if tb else k) + 1, m + 3
                    sa, sb, sc = lda * max(m, k) + 5, ldb * max(n, k), ldc * n + 4
                    data = [[numbers.randrange(-8, 8) / 4 for _ in range(batch * size)] for size in (sa, sb, sc)]
                    a, b, c = (device.array([bf16(x) if kind == "H" else x for x in values], kind)
                               for values, kind in zip(data, (code, code, code_c)))
                    scalar = ctypes.c_double if code == "d" else ctypes.c_float
                    alpha, beta = scalar(0.5), scalar(2.0)
                    status = blas.cublasGemmStridedBatchedEx(
                        handle, ta, tb, m, n, k, ctypes.byref(alpha), a, type_number, lda, ctypes.c_longlong(sa), b,
                        type_number, ldb, ctypes.c_longlong(sb), ctypes.byref(beta), c, type_c, ldc,
                        ctypes.c_longlong(sc), batch, 70 if code == "d" else 68, -1)
                    got = device.read(c, batch * sc, code_c)
                    if code_c == "H":
                        got = [struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in got]
                    for i in range(batch * sc):
                        matrix, column, row = i // sc, i % sc // ldc, i % sc % ldc
                        expected = data[2][i]
                        if column < n and row < m:
                            expected = 2 * expected + 0.5 * sum(
                                data[0][matrix * sa + (p + row * lda if ta else row + p * lda)]
                                * data[1][matrix * sb + (column + p * ldb if tb else p + column * ldb)] for p in range(k))
                        rounding = abs(expected) / 256 if code_c == "H" else 1e-6
                        worst = max(worst, status, abs(got[i] - expected) / (rounding + 1e-9))
    return worst


def write_at(device, index):
    out = device.empty(10, "f")
    device.launch("check_write_at", (1, 1, 1), (1, 1, 1), out, index)


def shared_overflow(device):
    device.launch("check_shared_overflow", (1, 1, 1), (1, 1, 1), 25, shared=100)


def stuck(device):
    device.launch("check_stuck", (1, 1, 1), (32, 1, 1))


def fault(device):
    device.launch("check_fault", (1, 1, 1), (1, 1, 1), ctypes.c_void_p(16), device.empty(1, "i"))


def misaligned(device):
    device.launch("check_misaligned", (1, 1, 1), (1, 1, 1), device.empty(8, "f"), device.empty(1, "f"))


def index(device, value):
    device.launch("check_index", (1, 1, 1), (1, 1, 1), value, device.empty(1, "i"))


def absent(device):
    device.function("no_such_kernel")


def too_many_threads(device):
    device.launch("check_block_sum", (1, 1, 1), (1024, 1, 1), device.empty(1, "f"), device.empty(1, "f"), 1)


def too_much_shared(device):
    device.launch("check_shared_overflow", (1, 1, 1), (1, 1, 1), 1, shared=49153)


class Emulator(unittest.TestCase):
    libraries = None

    def run_case(self, case, *arguments, order="forward"):
        """The finished process of one case."""
        environment = dict(os.environ, LD_LIBRARY_PATH=str(self.libraries), CUDA_EMULATOR_ORDER=order)
        return subprocess.run([sys.executable, __file__, "--case", case, *map(str, arguments)], env=environment,
                              capture_output=True, text=True)

    def value(self, case, *arguments, order="forward"):
        process = self.run_case(case, *arguments, order=order)
        self.assertEqual(process.returncode, 0, process.stderr)
        return json.loads(process.stdout)

    def assert_fails(self, message, case, *arguments):
        process = self.run_case(case, *arguments)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn(message, process.stderr)

    def test_block_sum_in_every_order(self):
        for order in ("forward", "reverse", "shuffle:5"):
            self.assertEqual(self.value("block_sum", order=order), 0)

    def test_shuffles_and_votes(self):
        expected = []
        for lane in range(32):
            place = lane % 8
            expected += [lane - place + 3, lane - 2 if place >= 2 else lane, lane + 3 if place + 3 < 8 else lane, lane ^ 5,
                         ctypes.c_int(0xAAAAAAAA).value, 1, 0, 15 if lane < 16 else -1]
        for order in ("forward", "reverse", "shuffle"):
            self.assertEqual(self.value("lanes", order=order), expected)

    def test_atomics_between_blocks(self):
        self.assertEqual(self.value("atomics"), [4800, bf16(100), 4799, 9600])

    def test_tensor_core_product(self):
        for order in ("forward", "shuffle"):
            self.assertEqual(self.value("product", order=order), 0)

    def test_gemm(self):
        self.assertLessEqual(self.value("gemm"), 1)

    def test_a_race_shows_in_the_order(self):
        right = [(i + 1) % 64 for i in range(64)]
        for order in ("forward", "reverse", "shuffle"):
            self.assertEqual(self.value("race", 1, order=order), right)
        forward, reverse = (self.value("race", 0, order=order) for order in ("forward", "reverse"))
        self.assertNotEqual(forward, right)
        self.assertNotEqual(forward, reverse)

    def test_a_copy_that_is_not_waited_for(self):
        self.assertEqual(self.value("copy", 1), [1, 2, 3, 4])
        self.assertEqual(self.value("copy", 0), [None] * 4)

    def test_writes_out_of_bounds(self):
        self.run_case("write_at", 9).check_returncode()
        self.assert_fails("write outside of an allocation of 40 bytes, at offset 40", "write_at", 10)
        self.assert_fails("check_write_at", "write_at", -1)
        self.assert_fails("100 bytes of dynamic shared memory, at offset 100", "shared_overflow")

    def test_failures_name_the_kernel(self):
        self.assert_fails("kernel check_stuck is stuck in block (0, 0, 0): 16 threads wait at __syncthreads", "stuck")
        self.assert_fails("misaligned access or index outside of an array in kernel check_misaligned", "misaligned")
        self.run_case("index", 7).check_returncode()
        self.assert_fails("misaligned access or index outside of an array in kernel check_index", "index", 8)
        self.assert_fails("in kernel check_fault, block (0, 0, 0), thread (0, 0, 0)", "fault")

    def test_refusals(self):
        self.assert_fails("no kernel is named no_such_kernel", "absent")
        self.assert_fails("the block has too many threads", "too_many_threads")
        self.assert_fails("more dynamic shared memory", "too_much_shared")


def main():
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(globals()[sys.argv[2]](Device(), *map(int, sys.argv[3:]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        Emulator.libraries = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        subprocess.run([HERE / "build.py", Emulator.libraries, "--kernels", HERE / "test_kernels"],
                       stdout=subprocess.DEVNULL, check=True)
        unittest.main(argv=sys.argv[:1])


if __name__ == "__main__":
    main()
