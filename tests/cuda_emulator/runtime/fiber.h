// A call stack that can be left and entered again: what an emulated CUDA thread runs on.
#pragma once
#include <cstddef>

namespace emulator {

/// A suspended call stack is its stack pointer.
using StackPointer = void*;

/// Saves the running stack's position in `from` and continues at `to`.
extern "C" void emulator_switch(StackPointer* from, StackPointer to);

class Fiber {
public:
    /// A stack that starts in `entry`, which must never return.
    explicit Fiber(void (*entry)());
    ~Fiber();
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    StackPointer position;

private:
    std::byte* memory;
};

} // namespace emulator
