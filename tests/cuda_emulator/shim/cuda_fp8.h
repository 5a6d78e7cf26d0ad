// The part of CUDA's cuda_fp8.h that candle's kernels use: the E4M3 format.
#pragma once
#include "cuda_fp16.h"

enum __nv_fp8_interpretation_t { __NV_E4M3 };

inline __half __nv_cvt_fp8_to_halfraw(uint8_t bits, __nv_fp8_interpretation_t) {
    return float(__nv_fp8_e4m3::from_bits(bits));
}
