#include "memory.h"
#include "../shim/emulator.h"
#include "failure.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace emulator {
namespace {

constexpr size_t zone_bytes = 4096; // wider than one row of most tensors
constexpr size_t alignment = 256;   // what cudaMalloc promises
constexpr int poison = 0xFF;        // NaN in every floating-point type

/// All allocations by address. Never destroyed: programs free device memory in destructors of statics.
struct Heap {
    std::mutex mutex;
    std::map<const std::byte*, size_t> sizes;
    Usage usage{};
};

Heap& heap() {
    static Heap& instance = *new Heap;
    return instance;
}

bool is_intact(const std::byte* zone) {
    return zone[0] == std::byte(poison) && memcmp(zone, zone + 1, zone_bytes - 1) == 0;
}

void check(const std::byte* start, size_t bytes) {
    const std::byte* const zones[] = {start - zone_bytes, start + bytes};
    for (const std::byte* zone : zones) {
        if (is_intact(zone)) continue;
        const std::byte* const hit = std::find_if(zone, zone + zone_bytes, [](std::byte b) { return b != std::byte(poison); });
        fail("write outside of an allocation of %zu bytes, at offset %td", bytes, hit - start);
    }
}

/// The allocation whose bytes or red zones hold the address. The heap is locked.
auto find(const std::byte* address) {
    auto& sizes = heap().sizes;
    auto next = sizes.upper_bound(address + zone_bytes);
    if (next == sizes.begin()) return sizes.end();
    --next;
    return address < next->first + next->second + zone_bytes ? next : sizes.end();
}

__attribute__((destructor)) void check_all() {
    const std::lock_guard lock(heap().mutex);
    for (const auto& [start, bytes] : heap().sizes) check(start, bytes);
}

} // namespace

void* allocate(size_t bytes) {
    const std::lock_guard lock(heap().mutex);
    Usage& usage = heap().usage;
    if (bytes > device_bytes - usage.used) return nullptr;
    // The end red zone follows the last byte, so that one element too many is noticed.
    const size_t all = (zone_bytes + bytes + zone_bytes + alignment - 1) / alignment * alignment;
    auto* const memory = static_cast<std::byte*>(std::aligned_alloc(alignment, all));
    if (!memory) return nullptr;
    memset(memory, poison, all);
    heap().sizes.emplace(memory + zone_bytes, bytes);
    usage.used += bytes;
    usage.peak = std::max(usage.peak, usage.used);
    return memory + zone_bytes;
}

bool release(void* start) {
    const std::lock_guard lock(heap().mutex);
    const auto found = heap().sizes.find(static_cast<std::byte*>(start));
    if (found == heap().sizes.end()) return false;
    check(found->first, found->second);
    heap().usage.used -= found->second;
    heap().sizes.erase(found);
    std::free(static_cast<std::byte*>(start) - zone_bytes);
    return true;
}

void check_allocation(const void* address) {
    const std::lock_guard lock(heap().mutex);
    const auto found = find(static_cast<const std::byte*>(address));
    if (found != heap().sizes.end()) check(found->first, found->second);
}

bool is_device_memory(const void* start, size_t bytes) {
    const std::lock_guard lock(heap().mutex);
    const auto* const first = static_cast<const std::byte*>(start);
    const auto found = find(first);
    return found != heap().sizes.end() && first >= found->first && first + bytes <= found->first + found->second;
}

Usage usage() {
    const std::lock_guard lock(heap().mutex);
    return heap().usage;
}

void reset_peak() {
    const std::lock_guard lock(heap().mutex);
    heap().usage.peak = heap().usage.used;
}

} // namespace emulator
