// The context switch keeps the registers that a called function has to preserve, and nothing else.
#include "fiber.h"

#include <atomic>
#include <cstdlib>
#include <sys/mman.h>

namespace emulator {
namespace {

constexpr size_t guard_bytes = 16 << 10; // a multiple of every page size in use
constexpr size_t stack_bytes = 112 << 10;
constexpr size_t line_bytes = 64, colours = 256;

std::atomic<size_t> made = 0;

} // namespace

#if defined(__x86_64__)

asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

namespace {

StackPointer prepare(std::byte* end, void (*entry)()) {
    // The switch pops six registers and returns to the entry, which finds the stack as after a call.
    auto** const top = reinterpret_cast<void**>(end);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    return top - 8;
}

} // namespace

#elif defined(__aarch64__)

asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, . - emulator_switch
)");

namespace {

StackPointer prepare(std::byte* end, void (*entry)()) {
    auto** const frame = reinterpret_cast<void**>(end - 160);
    frame[11] = reinterpret_cast<void*>(entry); // x30
    return frame;
}

} // namespace

#else
#error "the context switch is written for x86-64 and aarch64"
#endif

Fiber::Fiber(void (*entry)()) {
    void* const map = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map, guard_bytes, PROT_NONE) != 0) abort();
    memory = static_cast<std::byte*>(map);
    // The tops of the stacks are spread over the cache, where the same place in all pages would share few lines.
    position = prepare(memory + guard_bytes + stack_bytes - made++ * 3 % colours * line_bytes, entry);
}

Fiber::~Fiber() { munmap(memory, guard_bytes + stack_bytes); }

} // namespace emulator
