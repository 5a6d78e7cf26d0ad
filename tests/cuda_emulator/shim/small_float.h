// 16- and 8-bit floating point with the names and roundings of CUDA: arithmetic in float, rounded to nearest even.
#pragma once
#include "cuda_emulator.h"

namespace emulator {

/// Round to odd: a second rounding to a narrower format then gives what one rounding of the double would.
inline float to_float_odd(double value) {
    const float nearest = float(value);
    if (double(nearest) == value || value != value || std::isinf(nearest)) return nearest;
    const float truncated = std::fabs(double(nearest)) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(truncated) | 1);
}

/// A sign, `exponent_bits` and `mantissa_bits`, with subnormals; `value` is finite, the result saturates at `all_ones`.
template <unsigned exponent_bits, unsigned mantissa_bits>
uint32_t encode_finite(float value, uint32_t all_ones) {
    constexpr int bias = (1 << (exponent_bits - 1)) - 1;
    const uint32_t sign = uint32_t(std::signbit(value)) << (exponent_bits + mantissa_bits);
    if (value == 0) return sign;
    const int exponent = std::max(std::ilogb(value), 1 - bias);
    // The implicit bit of `scaled` carries into the exponent field, and so does rounding up to the next power of two.
    const auto scaled = uint32_t(std::nearbyint(std::ldexp(std::fabs(value), int(mantissa_bits) - exponent)));
    const uint32_t code = (uint32_t(exponent + bias - 1) << mantissa_bits) + scaled;
    return sign | std::min(code, all_ones);
}

struct BrainFormat {
    static uint16_t encode(float value) {
        if (value != value) return 0x7FFF;
        const uint32_t bits = std::bit_cast<uint32_t>(value);
        return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    static float decode(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

struct HalfFormat {
    static uint16_t encode(float value) {
        if (value != value) return 0x7FFF;
        if (std::isinf(value)) return value < 0 ? 0xFC00 : 0x7C00;
        return uint16_t(encode_finite<5, 10>(value, 0x7C00));
    }
    static float decode(uint16_t bits) {
        const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
        float magnitude = 0;
        if (exponent == 31) magnitude = mantissa ? NAN : INFINITY;
        else if (exponent == 0) magnitude = std::ldexp(float(mantissa), -24);
        else magnitude = std::bit_cast<float>(uint32_t(exponent + 112) << 23 | uint32_t(mantissa) << 13);
        return bits >> 15 ? -magnitude : magnitude;
    }
};

/// E4M3: no infinities, saturating at 448.
struct Fp8Format {
    static uint8_t encode(float value) {
        if (value != value) return 0x7F;
        return uint8_t(encode_finite<4, 3>(std::clamp(value, -448.0f, 448.0f), 0x7E));
    }
    static float decode(uint8_t bits) {
        const int exponent = bits >> 3 & 15, mantissa = bits & 7;
        float magnitude = 0;
        if (exponent == 15 && mantissa == 7) magnitude = NAN;
        else if (exponent == 0) magnitude = std::ldexp(float(mantissa), -9);
        else magnitude = std::ldexp(float(8 + mantissa), exponent - 10);
        return bits >> 7 ? -magnitude : magnitude;
    }
};

template <class Format, class Bits>
struct Small {
    Bits __x;

    Small() = default; // trivial, so that it can live in shared memory
    template <class Number>
        requires std::is_arithmetic_v<Number>
    Small(Number value) {
        if constexpr (std::is_same_v<Number, float>) __x = Format::encode(value);
        else __x = Format::encode(to_float_odd(double(value)));
    }
    operator float() const { return Format::decode(__x); }

    static Small from_bits(Bits bits) {
        Small result;
        result.__x = bits;
        return result;
    }

    Small operator-() const { return -float(*this); }
    friend Small operator+(Small a, Small b) { return float(a) + float(b); }
    friend Small operator-(Small a, Small b) { return float(a) - float(b); }
    friend Small operator*(Small a, Small b) { return float(a) * float(b); }
    friend Small operator/(Small a, Small b) { return float(a) / float(b); }
    Small& operator+=(Small other) { return *this = *this + other; }
    Small& operator-=(Small other) { return *this = *this - other; }
    Small& operator*=(Small other) { return *this = *this * other; }
    Small& operator/=(Small other) { return *this = *this / other; }
};

template <class T>
struct alignas(2 * sizeof(T)) Pair {
    T x, y;
};

/// fmax and fmin that keep a NaN.
inline float max_nan(float a, float b) { return a != a || b != b ? NAN : fmaxf(a, b); }
inline float min_nan(float a, float b) { return a != a || b != b ? NAN : fminf(a, b); }

} // namespace emulator

using __nv_bfloat16 = emulator::Small<emulator::BrainFormat, uint16_t>;
using __half = emulator::Small<emulator::HalfFormat, uint16_t>;
using __nv_fp8_e4m3 = emulator::Small<emulator::Fp8Format, uint8_t>;
using __nv_bfloat162 = emulator::Pair<__nv_bfloat16>;
using __half2 = emulator::Pair<__half>;
using half = __half;
using half2 = __half2;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// Functions that both 16-bit types have.
#define EMULATOR_SMALL_FUNCTIONS(T, T2)                                                            \
    inline bool __hisnan(T a) { return float(a) != float(a); }                                     \
    inline bool __hisinf(T a) { return std::isinf(float(a)); }                                     \
    inline T __hadd(T a, T b) { return a + b; }                                                    \
    inline T __hsub(T a, T b) { return a - b; }                                                    \
    inline T __hmul(T a, T b) { return a * b; }                                                    \
    inline T __hdiv(T a, T b) { return a / b; }                                                    \
    inline T __hfma(T a, T b, T c) { return fmaf(a, b, c); }                                       \
    inline T __hneg(T a) { return -a; }                                                            \
    inline T __habs(T a) { return fabsf(a); }                                                      \
    inline T __hmax(T a, T b) { return fmaxf(a, b); }                                              \
    inline T __hmin(T a, T b) { return fminf(a, b); }                                              \
    inline T __hmax_nan(T a, T b) { return emulator::max_nan(a, b); }                              \
    inline T __hmin_nan(T a, T b) { return emulator::min_nan(a, b); }                              \
    inline bool __heq(T a, T b) { return float(a) == float(b); }                                   \
    inline bool __hlt(T a, T b) { return float(a) < float(b); }                                    \
    inline bool __hgt(T a, T b) { return float(a) > float(b); }                                    \
    inline T hexp(T a) { return expf(a); }                                                         \
    inline T hlog(T a) { return logf(a); }                                                         \
    inline T hsqrt(T a) { return sqrtf(a); }                                                       \
    inline T hrsqrt(T a) { return 1.0f / sqrtf(a); }                                               \
    inline T hrcp(T a) { return 1.0f / float(a); }                                                 \
    inline T hsin(T a) { return sinf(a); }                                                         \
    inline T hcos(T a) { return cosf(a); }                                                         \
    inline T hceil(T a) { return ceilf(a); }                                                       \
    inline T hfloor(T a) { return floorf(a); }                                                     \
    inline T hrint(T a) { return rintf(a); }                                                       \
    inline T2 __hadd2(T2 a, T2 b) { return {a.x + b.x, a.y + b.y}; }                               \
    inline T2 __hsub2(T2 a, T2 b) { return {a.x - b.x, a.y - b.y}; }                               \
    inline T2 __hmul2(T2 a, T2 b) { return {a.x * b.x, a.y * b.y}; }                               \
    inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
    inline float __low2float(T2 a) { return a.x; }                                                 \
    inline float __high2float(T2 a) { return a.y; }
EMULATOR_SMALL_FUNCTIONS(__nv_bfloat16, __nv_bfloat162)
EMULATOR_SMALL_FUNCTIONS(__half, __half2)
#undef EMULATOR_SMALL_FUNCTIONS
