#include "failure.h"
#include "../shim/emulator.h"

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace emulator {
namespace {

std::array<std::atomic<const char*>, 8> recent{};
std::atomic<unsigned> launches = 0;

void print(const char* format, va_list arguments) {
    flockfile(stderr);
    fputs("CUDA emulator: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    funlockfile(stderr);
}

} // namespace

void remember_kernel(const char* name) { recent[launches++ % recent.size()] = name; }

void report(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
    fputs("  last kernels, newest first:", stderr);
    const unsigned count = launches;
    for (unsigned back = 1; back <= recent.size() && back <= count; ++back)
        fprintf(stderr, " %s", recent[(count - back) % recent.size()].load());
    fputc('\n', stderr);
    abort();
}

void report_absent(const char* function) { report("%s is not emulated", function); }

} // namespace emulator
