// How the emulator stops: one message, the kernels launched last, abort.
#pragma once

namespace emulator {

/// Notes a launch for the message of a later failure.
void remember_kernel(const char* name);

/// Prints like printf to the error output, with the emulator's name before it.
[[gnu::format(printf, 1, 2)]] void report(const char* format, ...);

/// Reports, names the last kernels and aborts.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

} // namespace emulator
