// Device memory: host memory between two red zones, filled with NaN when it is new.
#pragma once
#include <cstddef>

namespace emulator {

struct Usage {
    size_t used, peak;
};

constexpr size_t device_bytes = size_t(16) << 30; ///< what the device pretends to have

/// Null when the device would be full.
void* allocate(size_t bytes);

/// Checks the red zones and frees; false for an address that no allocation starts at.
bool release(void* start);

/// Fails when something was written beside the allocation that this address lies in or beside, if there is one.
void check_allocation(const void* address);

Usage usage();
void reset_peak();

} // namespace emulator
