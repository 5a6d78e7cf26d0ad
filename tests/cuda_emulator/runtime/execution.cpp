// A thread runs until it reaches a barrier or a warp collective; then the next one that can run is chosen, by
// CUDA_EMULATOR_ORDER: `forward` (lowest rank, the default), `reverse` (highest) or `shuffle[:SEED]`. A result that
// depends on the order is a race.
#include "execution.h"
#include "failure.h"
#include "fiber.h"
#include "memory.h"
#include "processors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

// Set whenever a thread continues.
__thread emulator::Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

__thread unsigned thread_rank;

namespace {

// ---- the order ----

struct Order {
    enum Kind { forward, reverse, shuffle } kind;
    uint64_t seed;

    static Order chosen() {
        const char* const text = getenv("CUDA_EMULATOR_ORDER");
        const std::string_view word = text ? text : "forward";
        if (word == "forward") return {forward, 0};
        if (word == "reverse") return {reverse, 0};
        if (word == "shuffle") return {shuffle, 1};
        if (word.starts_with("shuffle:")) return {shuffle, strtoull(text + 8, nullptr, 10)};
        fail("CUDA_EMULATOR_ORDER is `%s`; known: forward, reverse, shuffle, shuffle:SEED", text);
    }

    /// The number of the block to start at step `step` of `count`.
    uint64_t block(uint64_t step, uint64_t count) const {
        constexpr uint64_t prime = 4294967291; // above every count, so that the steps are a permutation
        if (kind == forward) return step;
        if (kind == reverse) return count - 1 - step;
        return (step * (prime % count) + seed) % count;
    }
};

/// A set of the threads of a block.
class Ranks {
public:
    void add(unsigned rank) {
        words[rank / 64] |= 1ull << rank % 64;
        used |= 1u << rank / 64;
    }
    void remove(unsigned rank) {
        words[rank / 64] &= ~(1ull << rank % 64);
        if (!words[rank / 64]) used &= ~(1u << rank / 64);
    }
    void add(const Ranks& other) {
        for (size_t i = 0; i < words.size(); ++i) words[i] |= other.words[i];
        used |= other.used;
    }
    bool empty() const { return used == 0; }
    uint32_t warp(unsigned index) const { return uint32_t(words[index / 2] >> index % 2 * 32); }

    // The set has members where one is asked for.
    unsigned first() const { return lowest(unsigned(std::countr_zero(used))); }
    unsigned last() const {
        const unsigned word = unsigned(std::bit_width(used)) - 1;
        return word * 64 + unsigned(std::bit_width(words[word])) - 1;
    }
    /// The first at or after `start`, around the end if need be.
    unsigned from(unsigned start) const {
        const unsigned word = start / 64;
        if (const uint64_t rest = words[word] >> start % 64) return start + unsigned(std::countr_zero(rest));
        const uint32_t later = used & ~0u << word << 1;
        return later ? lowest(unsigned(std::countr_zero(later))) : first();
    }

private:
    unsigned lowest(unsigned word) const { return word * 64 + unsigned(std::countr_zero(words[word])); }

    std::array<uint64_t, max_block_threads / 64> words{};
    uint32_t used = 0; ///< a bit for each word that is not 0
};

// ---- one block ----

struct Copy {
    void* to;
    const void* from;
    size_t bytes, zeros;
    size_t group;
};

struct Thread {
    Dim index;
    std::unique_ptr<Fiber> fiber;
    bool finished = false;

    // The collective that it waits in.
    Collective collective = nullptr;
    uint32_t mask = 0;
    void* operand = nullptr;

    std::vector<Copy> copies;
    size_t committed_groups = 0;
};

/// Runs blocks on one OS thread.
class Engine {
public:
    Engine() : threads(max_block_threads), shared(shared_storage()) {}

    /// The engine of the calling OS thread; null before `enter`.
    static Engine* here() { return running_engine; }
    static Engine& enter();

    void run_block(const Launch& launch, const Order& order, uint64_t number);

    void sync_block();
    void meet(uint32_t mask, Collective collective, void* operand);
    uint32_t living_lanes() const { return living.warp(thread_rank / 32); }
    void* dynamic_shared() { return shared.get(); }
    Thread& running() { return threads[thread_rank]; }
    const Launch* current() const { return launch; }

private:
    static __thread Engine* running_engine;
    static constexpr size_t zone_bytes = 1024;

    struct Free {
        void operator()(std::byte* memory) const { free(memory); }
    };
    using Shared = std::unique_ptr<std::byte, Free>;

    static Shared shared_storage() {
        return Shared(static_cast<std::byte*>(std::aligned_alloc(1024, max_shared_bytes + zone_bytes)));
    }
    static void fiber_main();

    unsigned choose(const Order& order);
    void resume(unsigned rank);
    void suspend() { emulator_switch(&threads[thread_rank].fiber->position, scheduler); }
    void retire(unsigned rank);
    void open_barrier();
    void complete(unsigned warp, uint32_t mask);
    void check_shared() const;
    [[noreturn]] void fail_stuck() const;

    const Launch* launch = nullptr;
    std::vector<Thread> threads;
    std::vector<std::unique_ptr<Fiber>> idle;
    Ranks ready, living, at_barrier;
    unsigned living_count = 0, barrier_count = 0;
    std::array<uint32_t, max_block_threads / 32> gathered{}; ///< the lanes of each warp that wait in a collective
    StackPointer scheduler = nullptr;
    Shared shared;
    uint64_t random = 0;
};

__thread Engine* Engine::running_engine = nullptr;

Engine& Engine::enter() {
    static thread_local Engine engine;
    return *(running_engine = &engine);
}

void Engine::run_block(const Launch& of, const Order& order, uint64_t number) {
    launch = &of;
    gridDim = of.grid;
    blockDim = of.block;
    blockIdx = {unsigned(number % of.grid.x), unsigned(number / of.grid.x % of.grid.y),
                unsigned(number / of.grid.x / of.grid.y)};
    random = order.seed * 0x9E3779B97F4A7C15 + number;
    memset(shared.get(), 0xFF, of.shared_bytes + zone_bytes);

    living_count = 0;
    for (unsigned z = 0; z < blockDim.z; ++z)
        for (unsigned y = 0; y < blockDim.y; ++y)
            for (unsigned x = 0; x < blockDim.x; ++x) {
                threads[living_count].index = {x, y, z};
                ready.add(living_count++);
            }
    living = ready;
    while (living_count > 0) {
        if (ready.empty()) fail_stuck();
        resume(choose(order));
    }
    check_shared();
    launch = nullptr;
}

unsigned Engine::choose(const Order& order) {
    if (order.kind == Order::forward) return ready.first();
    if (order.kind == Order::reverse) return ready.last();
    random = random * 6364136223846793005 + 1442695040888963407;
    return ready.from(unsigned(random >> 33) % max_block_threads);
}

void Engine::resume(unsigned rank) {
    Thread& thread = threads[rank];
    ready.remove(rank);
    thread_rank = rank;
    threadIdx = thread.index;
    if (!thread.fiber) {
        if (idle.empty()) idle.push_back(std::make_unique<Fiber>(fiber_main));
        thread.fiber = std::move(idle.back());
        idle.pop_back();
    }
    emulator_switch(&scheduler, thread.fiber->position);
    if (thread.finished) retire(rank);
}

/// The life of a fiber: it runs one thread after another.
void Engine::fiber_main() {
    for (;;) {
        Engine& engine = *here();
        engine.launch->kernel.run(engine.launch->parameters);
        engine.running().finished = true;
        engine.suspend();
    }
}

/// A thread that has returned counts as arrived wherever others wait for it.
void Engine::retire(unsigned rank) {
    Thread& thread = threads[rank];
    idle.push_back(std::move(thread.fiber));
    thread.finished = false;
    thread.copies.clear();
    thread.committed_groups = 0;
    living.remove(rank);
    --living_count;
    open_barrier();
    const unsigned warp = rank / 32;
    for (uint32_t lanes = gathered[warp]; lanes; lanes &= lanes - 1)
        complete(warp, threads[warp * 32 + unsigned(std::countr_zero(lanes))].mask);
}

void Engine::sync_block() {
    at_barrier.add(thread_rank);
    ++barrier_count;
    open_barrier();
    suspend();
}

void Engine::open_barrier() {
    if (barrier_count != living_count) return;
    ready.add(std::exchange(at_barrier, {}));
    barrier_count = 0;
}

void Engine::meet(uint32_t mask, Collective collective, void* operand) {
    const unsigned warp = thread_rank / 32, lane = thread_rank % 32;
    if (!(mask >> lane & 1)) fail("kernel %s: lane %u is not in its own mask %08x", launch->kernel.name, lane, mask);
    Thread& thread = running();
    thread.collective = collective;
    thread.mask = mask;
    thread.operand = operand;
    gathered[warp] |= 1u << lane;
    complete(warp, mask);
    suspend();
}

/// Runs the collective that the lanes of the mask wait in, if all of them do.
void Engine::complete(unsigned warp, uint32_t mask) {
    const uint32_t lanes = mask & living.warp(warp);
    if (!lanes || lanes & ~gathered[warp]) return;
    Thread* const first = &threads[warp * 32];
    const Collective collective = first[std::countr_zero(lanes)].collective;
    Operands operands{};
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        const unsigned lane = unsigned(std::countr_zero(rest));
        const Thread& thread = first[lane];
        if (thread.mask != mask) return;
        if (thread.collective != collective)
            fail("kernel %s: lanes of warp %u meet in different collectives", launch->kernel.name, warp);
        operands[lane] = thread.operand;
    }
    collective(operands);
    gathered[warp] &= ~lanes;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) ready.add(warp * 32 + unsigned(std::countr_zero(rest)));
}

void Engine::check_shared() const {
    const std::byte* const zone = shared.get() + launch->shared_bytes;
    for (size_t i = 0; i < zone_bytes; ++i)
        if (zone[i] != std::byte(0xFF))
            fail("kernel %s: write outside of %zu bytes of dynamic shared memory, at offset %zu", launch->kernel.name,
                 launch->shared_bytes, launch->shared_bytes + i);
}

void Engine::fail_stuck() const {
    const unsigned collective_count = living_count - barrier_count;
    uint32_t mask = 0;
    for (unsigned warp = 0; warp < gathered.size(); ++warp)
        if (gathered[warp]) mask = threads[warp * 32 + unsigned(std::countr_zero(gathered[warp]))].mask;
    fail("kernel %s is stuck in block (%u, %u, %u): %u threads wait at __syncthreads, %u in a warp collective, one with"
         " mask %08x", launch->kernel.name, blockIdx.x, blockIdx.y, blockIdx.z, barrier_count, collective_count, mask);
}

// ---- static shared memory ----

/// Fills the static shared memory of the kernel's library with NaN, on the calling OS thread.
void poison_static_shared(const Kernel& kernel) {
    void* address = kernel.static_shared();
    dl_iterate_phdr([](dl_phdr_info* info, size_t, void* inside) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            auto* const start = static_cast<std::byte*>(info->dlpi_tls_data);
            if (header.p_type != PT_TLS || !start || inside < start || inside >= start + header.p_memsz) continue;
            memset(start, 0xFF, header.p_memsz);
            return 1;
        }
        return 0;
    }, address);
}

// ---- faults ----

std::array<struct sigaction, NSIG> previous_actions;

/// Names the kernel, then leaves the signal to whoever had it before.
void on_fault(int signal) {
    const Engine* const engine = Engine::here();
    if (const Launch* const launch = engine ? engine->current() : nullptr)
        // The compiler's checks of kernels end in an illegal instruction.
        report("%s in kernel %s, block (%u, %u, %u), thread (%u, %u, %u)",
               signal == SIGILL ? "misaligned access or index outside of an array" : strsignal(signal), launch->kernel.name,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    sigaction(signal, &previous_actions[size_t(signal)], nullptr);
    raise(signal);
}

void watch_faults() {
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
        struct sigaction action{};
        action.sa_handler = on_fault;
        action.sa_flags = SA_ONSTACK;
        sigaction(signal, &action, &previous_actions[size_t(signal)]);
    }
}

} // namespace

void run(const Launch& launch) {
    static std::once_flag watching;
    std::call_once(watching, watch_faults);
    remember_kernel(launch.kernel.name);
    const Order order = Order::chosen();
    const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    parallel_by_processor(blocks, [&](auto next) {
        Engine& engine = Engine::enter();
        poison_static_shared(launch.kernel);
        launch.kernel.bind_shared(engine.dynamic_shared());
        for (uint64_t step; (step = next()) < blocks;) engine.run_block(launch, order, order.block(step, blocks));
    });
    for (size_t i = 0; i < launch.kernel.parameter_count; ++i)
        for (size_t at = 0; at + sizeof(void*) <= launch.kernel.parameter_bytes[i]; at += sizeof(void*)) {
            const void* value;
            memcpy(&value, static_cast<std::byte*>(launch.parameters[i]) + at, sizeof value);
            check_allocation(value);
        }
}

// ---- what kernels call ----

void sync_block() { Engine::here()->sync_block(); }
void meet(uint32_t mask, Collective collective, void* operand) { Engine::here()->meet(mask, collective, operand); }
uint32_t living_lanes() { return Engine::here()->living_lanes(); }
void* dynamic_shared() { return Engine::here()->dynamic_shared(); }

void copy_later(void* to, const void* from, size_t bytes, size_t zeros) {
    Thread& thread = Engine::here()->running();
    thread.copies.push_back({to, from, bytes, zeros, thread.committed_groups});
}

void commit_copies() { ++Engine::here()->running().committed_groups; }

void wait_copies(size_t groups_left) {
    Thread& thread = Engine::here()->running();
    const auto due = std::find_if(thread.copies.begin(), thread.copies.end(), [&](const Copy& copy) {
        return copy.group + groups_left >= thread.committed_groups;
    });
    for (auto copy = thread.copies.begin(); copy != due; ++copy) {
        memcpy(copy->to, copy->from, copy->bytes);
        memset(static_cast<std::byte*>(copy->to) + copy->bytes, 0, copy->zeros);
    }
    thread.copies.erase(thread.copies.begin(), due);
}

} // namespace emulator
