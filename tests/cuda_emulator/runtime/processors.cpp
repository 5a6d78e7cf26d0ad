#include "processors.h"
#include "../shim/emulator.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace emulator {
namespace {

unsigned processor_count() {
    if (const char* const text = getenv("CUDA_EMULATOR_THREADS")) return unsigned(std::max(1, atoi(text)));
    return std::max(1u, std::thread::hardware_concurrency());
}

/// Never destroyed: its threads wait until the process ends.
class Processors {
public:
    Processors() : helpers(processor_count() - 1) {
        for (unsigned i = 0; i < helpers; ++i) std::thread([this] { help(); }).detach();
    }

    void run(uint64_t count, const std::function<void(const Next&)>& work) {
        const std::lock_guard one_at_a_time(turn);
        std::atomic<uint64_t> taken = 0;
        const Next next = [&] { return taken++; };
        const std::function<void()> share = [&] { work(next); };
        if (count > 1 && helpers > 0) {
            const std::lock_guard lock(mutex);
            task = &share;
            ++round;
            busy = helpers;
            start.notify_all();
        }
        share();
        std::unique_lock lock(mutex);
        done.wait(lock, [&] { return busy == 0; });
    }

private:
    void help() {
        // A kernel may overflow its fiber's stack; the report of that needs another one.
        std::vector<std::byte> spare(64 << 10);
        const stack_t alternative{.ss_sp = spare.data(), .ss_flags = 0, .ss_size = spare.size()};
        sigaltstack(&alternative, nullptr);
        std::unique_lock lock(mutex);
        for (uint64_t seen = 0;; seen = round) {
            start.wait(lock, [&] { return round != seen; });
            const auto* const own = task;
            lock.unlock();
            (*own)();
            lock.lock();
            if (--busy == 0) done.notify_one();
        }
    }

    const unsigned helpers;
    std::mutex turn, mutex;
    std::condition_variable start, done;
    const std::function<void()>* task = nullptr;
    uint64_t round = 0;
    unsigned busy = 0;
};

} // namespace

void parallel_by_processor(uint64_t count, const std::function<void(const Next&)>& work) {
    static Processors& processors = *new Processors;
    processors.run(count, work);
}

void parallel(size_t count, const std::function<void(size_t)>& body) {
    parallel_by_processor(count, [&](const Next& next) {
        for (uint64_t i; (i = next()) < count;) body(i);
    });
}

} // namespace emulator
