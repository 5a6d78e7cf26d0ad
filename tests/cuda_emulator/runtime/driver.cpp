// libcuda.so.1: one device whose memory is host memory and whose streams have always finished.
//
// Only what cudarc and candle call is here. build.py adds a function that returns CUDA_ERROR_NOT_SUPPORTED for every
// other name that cudarc declares.
#include "execution.h"
#include "failure.h"
#include "memory.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

enum Result {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    invalid_context = 201,
    invalid_device = 101,
    not_found = 500,
    not_supported = 801,
};

constexpr std::pair<Result, std::pair<const char*, const char*>> result_names[] = {
    {success, {"CUDA_SUCCESS", "no error"}},
    {invalid_value, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {out_of_memory, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {invalid_device, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {invalid_context, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {not_found, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {not_supported, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported by the CUDA emulator"}},
};

// Attributes by their numbers in CUdevice_attribute; the others are 0.
const std::map<int, int> device_attributes = {
    {1, int(emulator::max_block_threads)},      // MAX_THREADS_PER_BLOCK
    {2, 1024}, {3, 1024}, {4, 64},              // MAX_BLOCK_DIM_{X,Y,Z}
    {5, 2147483647}, {6, 65535}, {7, 65535},    // MAX_GRID_DIM_{X,Y,Z}
    {8, int(emulator::default_shared_bytes)},   // MAX_SHARED_MEMORY_PER_BLOCK
    {10, 32},                                   // WARP_SIZE
    {12, 65536},                                // MAX_REGISTERS_PER_BLOCK
    {16, 8},                                    // MULTIPROCESSOR_COUNT
    {39, 2048},                                 // MAX_THREADS_PER_MULTIPROCESSOR
    {41, 1},                                    // UNIFIED_ADDRESSING
    {75, 9}, {76, 0},                           // COMPUTE_CAPABILITY_{MAJOR,MINOR}
    {81, 233472},                               // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    {97, int(emulator::max_shared_bytes)},      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    {106, 32},                                  // MAX_BLOCKS_PER_MULTIPROCESSOR
    {115, 1},                                   // MEMORY_POOLS_SUPPORTED
};

struct Function {
    emulator::Kernel kernel;
    size_t shared_limit = emulator::default_shared_bytes;
};

struct Event {
    std::chrono::steady_clock::time_point time;
};

/// What handles point to when nothing has to be kept.
struct Context {} the_context;
struct Pool {
    uint64_t release_threshold = 0;
} the_pool;
thread_local void* current_context = nullptr;

std::map<std::string, Function>& functions() {
    static auto& instance = *new std::map<std::string, Function>;
    return instance;
}

/// The kernel libraries lie in `kernels/` beside this library.
void load_kernels() {
    Dl_info own;
    dladdr(reinterpret_cast<void*>(load_kernels), &own);
    const auto folder = std::filesystem::canonical(own.dli_fname).parent_path() / "kernels";
    std::vector<std::filesystem::path> libraries;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".so") libraries.push_back(entry.path());
    std::sort(libraries.begin(), libraries.end());
    for (const auto& library : libraries)
        if (!dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) emulator::fail("%s", dlerror());
}

Result refuse(const char* kernel, const char* reason) {
    emulator::report("launch of %s refused: %s", kernel, reason);
    return invalid_value;
}

/// Both ends of a copy that are device memory must hold all its bytes.
Result copy(void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    if (bytes == 0) return success;
    if ((to_device && !emulator::is_device_memory(to, bytes)) || (from_device && !emulator::is_device_memory(from, bytes))) {
        emulator::report("copy of %zu bytes leaves its allocation", bytes);
        return invalid_value;
    }
    memmove(to, from, bytes);
    return success;
}

Result fill(void* to, unsigned char value, size_t bytes) {
    if (bytes == 0) return success;
    if (!emulator::is_device_memory(to, bytes)) {
        emulator::report("memset of %zu bytes leaves its allocation", bytes);
        return invalid_value;
    }
    memset(to, value, bytes);
    return success;
}

} // namespace

void emulator::add_kernel(const Kernel& kernel) {
    if (!functions().emplace(kernel.name, Function{kernel}).second) fail("two kernels are named %s", kernel.name);
}

#pragma GCC visibility push(default)
extern "C" {

Result cuInit(unsigned) {
    static std::once_flag loaded;
    std::call_once(loaded, load_kernels);
    return success;
}
Result cuDriverGetVersion(int* version) { return *version = 13000, success; }

Result cuGetErrorName(Result error, const char** name) {
    for (const auto& [code, words] : result_names)
        if (code == error) return *name = words.first, success;
    return *name = nullptr, invalid_value;
}
Result cuGetErrorString(Result error, const char** text) {
    for (const auto& [code, words] : result_names)
        if (code == error) return *text = words.second, success;
    return *text = nullptr, invalid_value;
}

// ---- device and context ----

Result cuDeviceGetCount(int* count) { return *count = 1, success; }
Result cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? success : invalid_device;
}
Result cuDeviceGetName(char* name, int bytes, int) {
    if (bytes < 1) return invalid_value;
    strncpy(name, "CUDA emulator", size_t(bytes));
    name[bytes - 1] = 0;
    return success;
}
Result cuDeviceGetUuid_v2(char* uuid, int) { return memcpy(uuid, "CUDA emulator 0", 16), success; }
Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = emulator::device_bytes, success; }
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    const auto found = device_attributes.find(attribute);
    *value = found == device_attributes.end() ? 0 : found->second;
    return success;
}

Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = &the_context, success; }
Result cuDevicePrimaryCtxRelease_v2(int) { return success; }
Result cuCtxSetCurrent(void* context) { return current_context = context, success; }
Result cuCtxGetCurrent(void** context) { return *context = current_context, success; }
Result cuCtxSetFlags(unsigned) { return success; }
Result cuCtxSynchronize() { return current_context ? success : invalid_context; }

// ---- streams and events: everything has happened when a call returns ----

Result cuStreamCreate(void** stream, unsigned) { return *stream = new Event, success; }
Result cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
Result cuStreamDestroy_v2(void* stream) { return delete static_cast<Event*>(stream), success; }
Result cuStreamSynchronize(void*) { return success; }
Result cuStreamQuery(void*) { return success; }
Result cuStreamWaitEvent(void*, void*, unsigned) { return success; }
Result cuStreamIsCapturing(void*, int* status) { return *status = 0, success; }
Result cuLaunchHostFunc(void*, void (*function)(void*), void* data) { return function(data), success; }

Result cuEventCreate(void** event, unsigned) { return *event = new Event, success; }
Result cuEventDestroy_v2(void* event) { return delete static_cast<Event*>(event), success; }
Result cuEventRecord(void* event, void*) {
    static_cast<Event*>(event)->time = std::chrono::steady_clock::now();
    return success;
}
Result cuEventQuery(void*) { return success; }
Result cuEventSynchronize(void*) { return success; }
Result cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    const auto span = static_cast<Event*>(end)->time - static_cast<Event*>(start)->time;
    *milliseconds = std::chrono::duration<float, std::milli>(span).count();
    return success;
}

// ---- memory ----

Result cuMemAlloc_v2(void** start, size_t bytes) {
    if (bytes == 0) return invalid_value;
    *start = emulator::allocate(bytes);
    return *start ? success : out_of_memory;
}
Result cuMemAllocAsync(void** start, size_t bytes, void*) {
    if (bytes == 0) return *start = nullptr, success;
    return cuMemAlloc_v2(start, bytes);
}
Result cuMemFree_v2(void* start) {
    if (!start || emulator::release(start)) return success;
    emulator::report("free of an address that was not allocated");
    return invalid_value;
}
Result cuMemFreeAsync(void* start, void*) { return cuMemFree_v2(start); }
Result cuMemGetInfo_v2(size_t* available, size_t* total) {
    *total = emulator::device_bytes;
    *available = emulator::device_bytes - emulator::usage().used;
    return success;
}
Result cuMemHostAlloc(void** start, size_t bytes, unsigned) {
    *start = std::malloc(bytes);
    return *start ? success : out_of_memory;
}
Result cuMemFreeHost(void* start) { return std::free(start), success; }

Result cuMemcpyHtoD_v2(void* to, const void* from, size_t bytes) { return copy(to, from, bytes, true, false); }
Result cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void*) { return copy(to, from, bytes, true, false); }
Result cuMemcpyDtoH_v2(void* to, const void* from, size_t bytes) { return copy(to, from, bytes, false, true); }
Result cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void*) { return copy(to, from, bytes, false, true); }
Result cuMemcpyDtoD_v2(void* to, const void* from, size_t bytes) { return copy(to, from, bytes, true, true); }
Result cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void*) { return copy(to, from, bytes, true, true); }
Result cuMemsetD8_v2(void* to, unsigned char value, size_t bytes) { return fill(to, value, bytes); }
Result cuMemsetD8Async(void* to, unsigned char value, size_t bytes, void*) { return fill(to, value, bytes); }

// The attributes by their numbers in CUmemPool_attribute.
Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &the_pool, success; }
Result cuDeviceGetMemPool(void** pool, int) { return *pool = &the_pool, success; }
Result cuMemPoolTrimTo(void*, size_t) { return success; }
Result cuMemPoolSetAttribute(void*, int attribute, void* value) {
    if (attribute == 4) memcpy(&the_pool.release_threshold, value, 8);             // RELEASE_THRESHOLD
    else if (attribute == 6 || attribute == 8) emulator::reset_peak();             // RESERVED_MEM_HIGH, USED_MEM_HIGH
    else if (attribute < 1 || attribute > 3) return invalid_value;                 // REUSE_*
    return success;
}
Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
    uint64_t number = 0;
    if (attribute == 4) number = the_pool.release_threshold;
    else if (attribute == 5 || attribute == 7) number = emulator::usage().used;    // RESERVED_MEM_CURRENT, USED_MEM_CURRENT
    else if (attribute == 6 || attribute == 8) number = emulator::usage().peak;
    else return not_supported;
    return memcpy(value, &number, sizeof number), success;
}

// ---- modules and kernels: the code is compiled in, whatever the module's text says ----

Result cuModuleLoadData(void** module, const void* image) {
    *module = const_cast<void*>(image);
    return image ? success : invalid_value;
}
Result cuModuleUnload(void*) { return success; }
Result cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = functions().find(name);
    if (found == functions().end()) {
        emulator::report("no kernel is named %s", name);
        return not_found;
    }
    *function = &found->second;
    return success;
}

// The attributes by their numbers in CUfunction_attribute.
Result cuFuncGetAttribute(int* value, int attribute, void* handle) {
    const auto& function = *static_cast<Function*>(handle);
    if (attribute == 0) *value = int(function.kernel.max_threads); // MAX_THREADS_PER_BLOCK
    else if (attribute == 8) *value = int(function.shared_limit);  // MAX_DYNAMIC_SHARED_SIZE_BYTES
    else *value = 0;
    return success;
}
Result cuFuncSetAttribute(void* handle, int attribute, int value) {
    if (attribute != 8) return success;
    if (value < 0 || size_t(value) > emulator::max_shared_bytes) return invalid_value;
    static_cast<Function*>(handle)->shared_limit = size_t(value);
    return success;
}
Result cuFuncSetCacheConfig(void*, int) { return success; }

Result cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                      unsigned block_z, unsigned shared_bytes, void*, void** parameters, void** extra) {
    const auto& [kernel, shared_limit] = *static_cast<Function*>(handle);
    const uint64_t block_threads = uint64_t(block_x) * block_y * block_z;
    if (extra) return refuse(kernel.name, "parameters as a buffer are not emulated");
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || block_threads == 0) return refuse(kernel.name, "a dimension is 0");
    if (grid_x > 2147483647 || grid_y > 65535 || grid_z > 65535) return refuse(kernel.name, "the grid is too large");
    if (block_z > 64 || block_threads > kernel.max_threads) return refuse(kernel.name, "the block has too many threads");
    if (shared_bytes > shared_limit) return refuse(kernel.name, "more dynamic shared memory than its attribute allows");
    emulator::run({kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, parameters});
    return success;
}

} // extern "C"
#pragma GCC visibility pop
