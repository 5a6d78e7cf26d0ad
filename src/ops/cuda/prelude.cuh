// Shared parts of all kernels: values in f32 and bf16, sums over a warp, and the matrix instructions of a warp.
//
// Compiled by nvcc for compute_80. Under CUDA_EMULATOR the same sources run on the CPU (tests/cuda_emulator), which
// supplies the instructions that are assembly here.
#pragma once

#ifndef CUDA_EMULATOR
#include <cuda_bf16.h>
#include <stdint.h>
#endif

typedef __nv_bfloat16 bf16;

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// V values in a row, moved at once; 1 or 4.
template <int V> struct Values {
  float at[V];
};

template <int V, typename T> struct alignas(V * sizeof(T)) Stored {
  T at[V];
};

template <int V, typename T> __device__ __forceinline__ Values<V> load(const T *from) {
  const Stored<V, T> stored = *reinterpret_cast<const Stored<V, T> *>(from);
  Values<V> values;
  for (int i = 0; i < V; i++) values.at[i] = wide(stored.at[i]);
  return values;
}

template <int V, typename T> __device__ __forceinline__ void store(T *to, const Values<V> &values) {
  Stored<V, T> stored;
  for (int i = 0; i < V; i++) stored.at[i] = narrow<T>(values.at[i]);
  *reinterpret_cast<Stored<V, T> *>(to) = stored;
}

template <int V> struct Lanes {
  static constexpr int COUNT = V;
};

// Calls each(Lanes<V>, start) for the values of a matrix of rows of `width` that belong to this thread: four in a row
// where rows split into fours.
template <typename Each> __device__ __forceinline__ void for_values(size_t count, int width, Each each) {
  const size_t thread = size_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = size_t(gridDim.x) * blockDim.x;
  if (width % 4 == 0) {
    for (size_t i = 4 * thread; i < count; i += 4 * threads) each(Lanes<4>(), i);
  } else {
    for (size_t i = thread; i < count; i += threads) each(Lanes<1>(), i);
  }
}

// The same result in every lane, in the same order on every run.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// The sum over a block of up to 32 warps, in every thread. `partial` holds a value for each warp.
__device__ __forceinline__ float block_sum(float x, float *partial) {
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : 0.f);
}

// Normal distribution function and density at x.
__device__ __forceinline__ float normal(float x) { return 0.5f * (1.f + erff(x * 0.70710678f)); }
__device__ __forceinline__ float density(float x) { return 0.39894228f * expf(-0.5f * x * x); }

// Two values in a register, the first in the low half.
__device__ __forceinline__ uint32_t pack(float low, float high) {
  const bf16 pair[2] = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
  uint32_t word;
  memcpy(&word, pair, sizeof word);
  return word;
}

// d += a·b, a [16, 16] and b [16, 8] in bf16, d [16, 8] in f32, each in the fragments of mma.m16n8k16.
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef CUDA_EMULATOR
  emulator::mma_m16n8k16_bf16(d, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8×8 matrices of shared memory, transposed; a lane names row lane % 8 of matrix lane / 8, 16 bytes aligned.
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const bf16 *row) {
#ifdef CUDA_EMULATOR
  emulator::ldmatrix_x4_trans(r, row);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
#endif
}
