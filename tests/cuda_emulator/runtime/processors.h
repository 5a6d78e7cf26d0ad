// The OS threads of the emulator: the caller and one helper for each further processor.
#pragma once
#include <cstdint>
#include <functional>

namespace emulator {

/// Gives the next of `count` numbers, and `count` or more when there are none left.
using Next = std::function<uint64_t()>;

/// Calls `work` on up to `count` OS threads at once; each takes numbers from `next`. One call at a time; returns when all have.
void parallel_by_processor(uint64_t count, const std::function<void(const Next&)>& work);

} // namespace emulator
