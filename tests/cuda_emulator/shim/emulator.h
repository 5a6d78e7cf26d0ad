// What a kernel library and the runtime (libcuda.so.1) know of each other.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#define EMULATOR_EXPORT __attribute__((visibility("default")))
// The runtime is loaded at program start, so its per-thread variables are one instruction away.
#define EMULATOR_THREAD_VARIABLE extern EMULATOR_EXPORT __attribute__((tls_model("initial-exec"))) __thread

namespace emulator {

struct Dim {
    unsigned x, y, z;
};

} // namespace emulator

// The built-in variables of CUDA C++.
EMULATOR_THREAD_VARIABLE emulator::Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

/// Position of the running thread in its block, x fastest.
EMULATOR_THREAD_VARIABLE unsigned thread_rank;

/// What the lanes of a warp bring to a collective; null for a lane that takes no part.
using Operands = std::array<void*, 32>;
using Collective = void (*)(const Operands&);

/// Waits until all living lanes of `mask` are here; the last one runs `collective` on the operands of all.
EMULATOR_EXPORT void meet(uint32_t mask, Collective collective, void* operand);

/// __syncthreads.
EMULATOR_EXPORT void sync_block();

/// Start of the block's dynamic shared memory.
EMULATOR_EXPORT void* dynamic_shared();

/// Lanes of the caller's warp that have not returned.
EMULATOR_EXPORT uint32_t living_lanes();

/// Asynchronous copies of the running thread, carried out as late as the waits allow.
EMULATOR_EXPORT void copy_later(void* to, const void* from, size_t bytes, size_t zeros);
EMULATOR_EXPORT void commit_copies();
EMULATOR_EXPORT void wait_copies(size_t groups_left);

/// Runs body(0) … body(count - 1) on all processors.
EMULATOR_EXPORT void parallel(size_t count, const std::function<void(size_t)>& body);

/// Whether all the bytes lie in one device allocation.
EMULATOR_EXPORT bool is_device_memory(const void* start, size_t bytes);

/// Reports a call of something that the emulator lacks.
EMULATOR_EXPORT void report_absent(const char* function);

/// One kernel as its library describes it.
struct Kernel {
    const char* name;
    void (*run)(void** parameters);
    const size_t* parameter_bytes;
    size_t parameter_count;
    unsigned max_threads;
    void* (*static_shared)();           ///< an address in the calling OS thread's static shared memory
    void (*bind_shared)(void* dynamic); ///< says where the calling OS thread's dynamic shared memory is
};
EMULATOR_EXPORT void add_kernel(const Kernel& kernel);

/// Calls a kernel with parameters as cuLaunchKernel gets them: a pointer to each.
template <auto kernel>
struct Unpacked;

template <class... Parameters, void (*kernel)(Parameters...)>
struct Unpacked<kernel> {
    static constexpr std::array<size_t, sizeof...(Parameters)> bytes{sizeof(Parameters)...};

    static void run(void** parameters) { call(parameters, std::index_sequence_for<Parameters...>()); }

private:
    template <size_t... I>
    static void call(void** parameters, std::index_sequence<I...>) {
        kernel(*static_cast<Parameters*>(parameters[I])...);
    }
};

/// The maximal threads of __launch_bounds__(threads, blocks).
template <class... Blocks>
constexpr unsigned first(unsigned threads, Blocks...) {
    return threads;
}

/// A static variable of this type makes `kernel` known when its library is loaded.
template <auto kernel>
struct Registration {
    Registration(const char* name, unsigned max_threads, void* (*static_shared)(), void (*bind_shared)(void*)) {
        using Call = Unpacked<kernel>;
        add_kernel({name, Call::run, Call::bytes.data(), Call::bytes.size(), max_threads, static_shared, bind_shared});
    }
};

} // namespace emulator
