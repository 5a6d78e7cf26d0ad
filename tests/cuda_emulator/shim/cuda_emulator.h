// CUDA C++ for g++: included before the first line of every .cu file in place of what nvcc knows by itself.
//
// `__global__` and `__launch_bounds__` stay undefined: build.py reads them in the preprocessed text and removes them.
#pragma once
#include "emulator.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdio>
#include <cstring>
#include <limits>
#include <math.h>
#include <stdint.h>
#include <type_traits>

#define CUDA_EMULATOR 1
#define __CUDA_ARCH__ 800

#define __host__
#define __device__
#define __constant__
#define __managed__
#define __shared__ thread_local // a block runs on one OS thread
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__
#define __builtin_assume(condition)

// ---- built-in vectors ----

#define EMULATOR_VECTORS(T, name, align2, align4)                                                  \
    struct name##1 { T x; };                                                                       \
    struct alignas(align2) name##2 { T x, y; };                                                    \
    struct name##3 { T x, y, z; };                                                                 \
    struct alignas(align4) name##4 { T x, y, z, w; };                                              \
    inline name##1 make_##name##1(T x) { return {x}; }                                             \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                     \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                             \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(signed char, char, 2, 4)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(long long, longlong, 16, 16)
EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 : emulator::Dim {
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : Dim{x, y, z} {}
};

constexpr int warpSize = 32;

// ---- barriers and warp collectives ----

inline void __syncthreads() { emulator::sync_block(); }
inline void __syncwarp(uint32_t mask = ~0u) { emulator::meet(mask, [](const emulator::Operands&) {}, &mask); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __threadfence(); }
inline uint32_t __activemask() { return emulator::living_lanes(); }

namespace emulator {

inline unsigned lane() { return thread_rank % 32; }

/// The value of lane `source`; all bits set where that lane takes no part.
template <class T>
T shuffle(uint32_t mask, T value, unsigned source) {
    struct Operand {
        T value;
        unsigned source;
        T result;
    } own{value, source, {}};
    meet(mask, [](const Operands& lanes) {
        for (void* lane : lanes) {
            if (!lane) continue;
            auto& reader = *static_cast<Operand*>(lane);
            if (const void* other = lanes[reader.source]) reader.result = static_cast<const Operand*>(other)->value;
            else memset(static_cast<void*>(&reader.result), 0xFF, sizeof(T));
        }
    }, &own);
    return own.result;
}

struct Vote {
    bool predicate;
    uint32_t ayes, voters;
};

inline Vote vote(uint32_t mask, bool predicate) {
    Vote own{predicate, 0, 0};
    meet(mask, [](const Operands& lanes) {
        Vote sum{};
        for (unsigned i = 0; i < 32; ++i) {
            if (!lanes[i]) continue;
            sum.voters |= 1u << i;
            if (static_cast<const Vote*>(lanes[i])->predicate) sum.ayes |= 1u << i;
        }
        for (void* lane : lanes) if (lane) *static_cast<Vote*>(lane) = sum;
    }, &own);
    return own;
}

} // namespace emulator

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
    const unsigned first = emulator::lane() & ~unsigned(width - 1);
    return emulator::shuffle(mask, value, first | (unsigned(source) & unsigned(width - 1)));
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = emulator::lane(), place = lane % unsigned(width);
    return emulator::shuffle(mask, value, place < delta ? lane : lane - delta);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
    const unsigned lane = emulator::lane(), place = lane % unsigned(width);
    return emulator::shuffle(mask, value, place + delta < unsigned(width) ? lane + delta : lane);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
    const unsigned lane = emulator::lane(), source = lane ^ unsigned(bits);
    const unsigned end = (lane & ~unsigned(width - 1)) + unsigned(width);
    return emulator::shuffle(mask, value, source < end ? source : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) { return emulator::vote(mask, predicate).ayes; }
inline int __any_sync(uint32_t mask, int predicate) { return emulator::vote(mask, predicate).ayes != 0; }
inline int __all_sync(uint32_t mask, int predicate) {
    const emulator::Vote result = emulator::vote(mask, predicate);
    return result.ayes == result.voters;
}

// ---- tensor cores and asynchronous copies ----

namespace emulator {

inline float bf16_to_float(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

/// d += a·b of a warp, with the register fragments of PTX mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32.
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct Operand {
        float* d;
        const uint32_t *a, *b;
    } own{d, a, b};
    meet(~0u, [](const Operands& lanes) {
        float left[16][16], right[16][8]; // [m][k], [k][n]
        for (unsigned i = 0; i < 32; ++i) {
            if (!lanes[i]) continue;
            const auto& [d, a, b] = *static_cast<const Operand*>(lanes[i]);
            const unsigned group = i / 4, pair = i % 4 * 2;
            for (unsigned r = 0; r < 4; ++r) {
                float* const to = &left[group + r % 2 * 8][pair + r / 2 * 8];
                to[0] = bf16_to_float(a[r] & 0xFFFF);
                to[1] = bf16_to_float(a[r] >> 16);
            }
            for (unsigned r = 0; r < 2; ++r) {
                right[pair + r * 8][group] = bf16_to_float(b[r] & 0xFFFF);
                right[pair + r * 8 + 1][group] = bf16_to_float(b[r] >> 16);
            }
        }
        float product[16][8] = {};
        for (unsigned m = 0; m < 16; ++m)
            for (unsigned k = 0; k < 16; ++k)
                for (unsigned n = 0; n < 8; ++n) product[m][n] += left[m][k] * right[k][n];
        for (unsigned i = 0; i < 32; ++i) {
            if (!lanes[i]) continue;
            float* const d = static_cast<const Operand*>(lanes[i])->d;
            for (unsigned r = 0; r < 4; ++r) d[r] += product[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
        }
    }, &own);
}

template <bool transposed>
void ldmatrix(uint32_t (&r)[4], const void* row) {
    struct Operand {
        uint32_t* r;
        const void* row;
    } own{r, row};
    meet(~0u, [](const Operands& lanes) {
        for (unsigned i = 0; i < 32; ++i) {
            if (!lanes[i]) continue;
            for (unsigned matrix = 0; matrix < 4; ++matrix) {
                const auto element = [&](unsigned row, unsigned column) -> uint32_t {
                    const auto* source = static_cast<const Operand*>(lanes[matrix * 8 + row]);
                    return source ? static_cast<const uint16_t*>(source->row)[column] : 0xFFFF;
                };
                const unsigned major = i / 4, minor = i % 4 * 2;
                const uint32_t low = transposed ? element(minor, major) : element(major, minor);
                const uint32_t high = transposed ? element(minor + 1, major) : element(major, minor + 1);
                static_cast<const Operand*>(lanes[i])->r[matrix] = low | high << 16;
            }
        }
    }, &own);
}

/// PTX ldmatrix.sync.aligned.m8n8.x4.shared.b16: lane i names row i % 8 of matrix i / 8.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { ldmatrix<false>(r, row); }
/// The same with .trans.
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { ldmatrix<true>(r, row); }

/// PTX cp.async.cg of 16 bytes.
inline void cp_async16(void* to, const void* from) { copy_later(to, from, 16, 0); }
/// The same of `bytes` bytes, and zeros to fill 16.
inline void cp_async16(void* to, const void* from, unsigned bytes) { copy_later(to, from, bytes, 16 - bytes); }
inline void cp_async_commit() { commit_copies(); }
/// Returns when at most N committed groups are unfinished.
template <int N>
void cp_async_wait() { wait_copies(N); }

} // namespace emulator

// ---- atomics ----

namespace emulator {

/// Replaces *address by update(*address) in one indivisible step and returns the old value.
template <class T, class Update>
T atomic_update(T* address, Update update) {
    using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
    static_assert(sizeof(T) == sizeof(Bits));
    auto* const cell = reinterpret_cast<Bits*>(address);
    Bits old = __atomic_load_n(cell, __ATOMIC_RELAXED);
    for (;;) {
        const T next = update(std::bit_cast<T>(old));
        if (__atomic_compare_exchange_n(cell, &old, std::bit_cast<Bits>(next), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return std::bit_cast<T>(old);
    }
}

} // namespace emulator

#define EMULATOR_ATOMIC(name, result)                                                              \
    template <class T>                                                                             \
    T name(T* address, std::type_identity_t<T> value) {                                            \
        return emulator::atomic_update(address, [=](T old) -> T { return result; });               \
    }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
EMULATOR_ATOMIC(atomicAnd, old & value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMIC

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    return emulator::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}

// ---- loads and stores with a cache hint ----

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> void __stcs(T* address, std::type_identity_t<T> value) { *address = value; }
template <class T> void __stcg(T* address, std::type_identity_t<T> value) { *address = value; }

// ---- arithmetic ----

template <class A, class B>
    requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
    requires std::is_arithmetic_v<A> && std::is_arithmetic_v<B>
constexpr auto max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return unsigned(rintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return uint64_t((static_cast<unsigned __int128>(a) * b) >> 64); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * float(M_SQRT1_2)); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }

// Macros, because the C library has declarations of its own for these names.
#define rsqrtf(x) (1.0f / sqrtf(x))
#define rsqrt(x) (1.0 / sqrt(x))
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)
#define __sincosf(x, s, c) sincosf(x, s, c)

#include "cuda_bf16.h"
