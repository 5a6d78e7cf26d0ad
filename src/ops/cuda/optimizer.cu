// One pass over the memory of all parameters at once: a block has a chunk of one of them.
#include "prelude.cuh"

// A parameter with the values that a step reads and writes; absent pointers are null. The layout is that of optimizer.rs.
struct Entry {
  float *value;
  const float *gradient;
  float *running[2];
  float *average;
  size_t count;
  float numbers[8];
};

struct Chunk {
  unsigned entry, start; // start in units of SPAN
};

constexpr size_t SPAN = 1 << 14;

// Applies `rule` to the values of this block's chunk, and averages.
template <int RUNNING, typename Rule>
__device__ __forceinline__ void step(const Entry *entries, const Chunk *chunks, float scale, float keep, float take,
                                     Rule rule) {
  const Chunk chunk = chunks[blockIdx.x];
  const Entry entry = entries[chunk.entry];
  const size_t first = chunk.start * SPAN, last = min(entry.count, first + SPAN);
  for (size_t i = first + threadIdx.x; i < last; i += blockDim.x) {
    float running[RUNNING];
    for (int k = 0; k < RUNNING; k++) running[k] = entry.running[k][i];
    const float value = rule(entry.numbers, entry.value[i], entry.gradient[i] * scale, running);
    entry.value[i] = value;
    for (int k = 0; k < RUNNING; k++) entry.running[k][i] = running[k];
    if (entry.average) entry.average[i] = keep * entry.average[i] + take * value;
  }
}

// numbers: 1 − lr·decay, β₁, β₂, 1 − β₁, 1 − β₂, step size, 1/sqrt(bias correction of the second moment), ε
extern "C" __global__ void adamw(const Entry *entries, const Chunk *chunks, float scale, float keep, float take) {
  step<2>(entries, chunks, scale, keep, take, [](const float *n, float p, float g, float *running) {
    const float m = running[0] * n[1] + g * n[3], v = running[1] * n[2] + g * g * n[4];
    running[0] = m;
    running[1] = v;
    return p * n[0] - n[5] * (m / (sqrtf(v) * n[6] + n[7]));
  });
}

// numbers: momentum, q, q·decay, lr
extern "C" __global__ void momentum(const Entry *entries, const Chunk *chunks, float scale, float keep, float take) {
  step<1>(entries, chunks, scale, keep, take, [](const float *n, float p, float g, float *running) {
    running[0] = running[0] * n[0] + n[1] * g + n[2] * p;
    return p - n[3] * running[0];
  });
}

// Σ (numbers[0]·value + numbers[1]·gradient)² of a chunk -> sums [chunks]; a null gradient counts as zeros.
extern "C" __global__ void squares(const Entry *entries, const Chunk *chunks, double *sums) {
  __shared__ double partial[32];
  const Chunk chunk = chunks[blockIdx.x];
  const Entry entry = entries[chunk.entry];
  const size_t first = chunk.start * SPAN, last = min(entry.count, first + SPAN);
  double sum = 0.;
  for (size_t i = first + threadIdx.x; i < last; i += blockDim.x) {
    const float x = entry.numbers[0] * entry.value[i] + (entry.gradient ? entry.numbers[1] * entry.gradient[i] : 0.f);
    sum += double(x) * double(x);
  }
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
  if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double total = 0.;
  for (int warp = 0; warp < int(blockDim.x) / WARP; warp++) total += partial[warp];
  sums[blockIdx.x] = total;
}
