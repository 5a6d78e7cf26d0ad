// Runs kernels: blocks over the processors, the threads of a block as fibers on one of them.
#pragma once
#include "../shim/emulator.h"

namespace emulator {

constexpr unsigned max_block_threads = 1024;
constexpr size_t default_shared_bytes = 48 << 10;
constexpr size_t max_shared_bytes = 227 << 10;

struct Launch {
    const Kernel& kernel;
    Dim grid, block;
    size_t shared_bytes;
    void** parameters;
};

/// Returns when all blocks have run; one launch at a time.
void run(const Launch& launch);

} // namespace emulator
