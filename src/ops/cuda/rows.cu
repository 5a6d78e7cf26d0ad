// Rows of a matrix [rows, width]: norms, biases, activations, residual sums; a warp per row or a thread per column.
//
// T is the type of a branch's intermediates, f32 or bf16; the residual stream, weights and sums are f32.
#include "prelude.cuh"

// Mean and 1/sqrt(var + eps) of a row, in every lane of a warp.
__device__ __forceinline__ void statistics(const float *x, int width, float eps, float &mean, float &scale) {
  const int lane = threadIdx.x % WARP;
  float sum = 0.f;
  for (int i = lane; i < width; i += WARP) sum += x[i];
  mean = warp_sum(sum) / width;
  float squares = 0.f;
  for (int i = lane; i < width; i += WARP) squares += (x[i] - mean) * (x[i] - mean);
  scale = rsqrtf(warp_sum(squares) / width + eps);
}

__device__ __forceinline__ int row_of_warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / WARP; }

// y = (x − mean) · scale · weight + bias
template <typename T>
__device__ __forceinline__ void layer_norm(const float *x, const float *weight, const float *bias, T *y, int rows,
                                           int width, float eps) {
  const int row = row_of_warp();
  if (row >= rows) return;
  x += size_t(row) * width;
  y += size_t(row) * width;
  float mean, scale;
  statistics(x, width, eps, mean, scale);
  for (int i = threadIdx.x % WARP; i < width; i += WARP) y[i] = narrow<T>((x[i] - mean) * scale * weight[i] + bias[i]);
}

// dx = scale·(g·w − mean(g·w) − x̂·mean(g·w·x̂)) + residual, x̂ = (x − mean)·scale; `residual` and `normed` (the norm
// once more) may be absent. `statistics` [2, rows] get mean and scale.
template <typename T>
__device__ __forceinline__ void layer_norm_gradient(const float *x, const float *weight, const float *bias,
                                                    const T *grad, const float *residual, float *dx, T *normed,
                                                    float *moments, int rows, int width, float eps) {
  const int row = row_of_warp(), lane = threadIdx.x % WARP;
  if (row >= rows) return;
  const size_t start = size_t(row) * width;
  float mean, scale;
  statistics(x + start, width, eps, mean, scale);
  float sum = 0.f, slope = 0.f;
  for (int i = lane; i < width; i += WARP) {
    const float g = wide(grad[start + i]) * weight[i];
    sum += g;
    slope += g * (x[start + i] - mean);
  }
  sum = warp_sum(sum) / width;
  slope = warp_sum(slope) * scale * scale / width;
  for (int i = lane; i < width; i += WARP) {
    const float centred = x[start + i] - mean;
    const float value = scale * (wide(grad[start + i]) * weight[i] - sum - centred * slope);
    if (normed) normed[start + i] = narrow<T>(centred * scale * weight[i] + bias[i]);
    dx[start + i] = residual ? residual[start + i] + value : value;
  }
  if (lane == 0) {
    moments[row] = mean;
    moments[rows + row] = scale;
  }
}

// Sums over the rows of a chunk: Σ g·x̂ in the first half of a row of `sums` [chunks, 2·width], Σ g in the second.
template <typename T>
__device__ __forceinline__ void layer_norm_affine(const float *x, const T *grad, const float *moments, float *sums,
                                                  int rows, int width, int chunk) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  const int first = blockIdx.y * chunk, last = min(rows, first + chunk);
  float slope = 0.f, sum = 0.f;
  for (int row = first; row < last; row++) {
    const float g = wide(grad[size_t(row) * width + column]);
    slope += g * (x[size_t(row) * width + column] - moments[row]) * moments[rows + row];
    sum += g;
  }
  sums += size_t(blockIdx.y) * 2 * width;
  sums[column] = slope;
  sums[width + column] = sum;
}

// Sums over the rows of a chunk -> sums [chunks, width].
template <typename T>
__device__ __forceinline__ void column_sums(const T *values, float *sums, int rows, int width, int chunk) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= width) return;
  const int first = blockIdx.y * chunk, last = min(rows, first + chunk);
  float sum = 0.f;
  for (int row = first; row < last; row++) sum += wide(values[size_t(row) * width + column]);
  sums[size_t(blockIdx.y) * width + column] = sum;
}

// active = gelu(hidden + bias), hidden + bias rounded to T as in the backward pass.
template <typename T>
__device__ __forceinline__ void bias_gelu(const T *hidden, const float *bias, T *active, size_t count, int width) {
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> x = load<V>(hidden + i);
    const Values<V> b = load<V>(bias + i % width);
    for (int k = 0; k < V; k++) {
      const float value = wide(narrow<T>(x.at[k] + b.at[k]));
      x.at[k] = value * normal(value);
    }
    store<V>(active + i, x);
  });
}

// hidden becomes gelu(hidden + bias); grad, that of the activation, becomes that of hidden.
template <typename T>
__device__ __forceinline__ void bias_gelu_gradient(T *hidden, const float *bias, T *grad, size_t count, int width) {
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> x = load<V>(hidden + i), g = load<V>(grad + i);
    const Values<V> b = load<V>(bias + i % width);
    for (int k = 0; k < V; k++) {
      const float value = wide(narrow<T>(x.at[k] + b.at[k])), below = normal(value);
      x.at[k] = value * below;
      g.at[k] *= below + value * density(value);
    }
    store<V>(hidden + i, x);
    store<V>(grad + i, g);
  });
}

template <typename T> __device__ __forceinline__ void add_bias(T *values, const float *bias, size_t count, int width) {
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> x = load<V>(values + i);
    const Values<V> b = load<V>(bias + i % width);
    for (int k = 0; k < V; k++) x.at[k] += b.at[k];
    store<V>(values + i, x);
  });
}

// out = x + scale·(y + bias); `sample` values, whole rows, share a scale, which is 1 where absent.
template <typename T>
__device__ __forceinline__ void residual(const float *x, const T *y, const float *bias, const float *scale, float *out,
                                         size_t count, int width, size_t sample) {
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> sum = load<V>(x + i);
    const Values<V> branch = load<V>(y + i), b = load<V>(bias + i % width);
    const float factor = scale ? scale[i / sample] : 1.f;
    for (int k = 0; k < V; k++) sum.at[k] += factor * (branch.at[k] + b.at[k]);
    store<V>(out + i, sum);
  });
}

// out = scale·grad
template <typename T>
__device__ __forceinline__ void scaled(const float *grad, const float *scale, T *out, size_t count, int width,
                                       size_t sample) {
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> g = load<V>(grad + i);
    const float factor = scale ? scale[i / sample] : 1.f;
    for (int k = 0; k < V; k++) g.at[k] *= factor;
    store<V>(out + i, g);
  });
}

template <typename T> __device__ __forceinline__ void widen(const T *values, float *out, size_t count) {
  for_values(count, count % 4 ? 1 : 4, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    store<V>(out + i, load<V>(values + i));
  });
}

#define OF_VALUES(T, NAME)                                                                                            \
  extern "C" __global__ void layer_norm_##NAME(const float *x, const float *weight, const float *bias, T *y,          \
                                               int rows, int width, float eps) {                                      \
    layer_norm<T>(x, weight, bias, y, rows, width, eps);                                                              \
  }                                                                                                                   \
  extern "C" __global__ void layer_norm_gradient_##NAME(                                                              \
      const float *x, const float *weight, const float *bias, const T *grad, const float *residual, float *dx,        \
      T *normed, float *moments, int rows, int width, float eps) {                                                    \
    layer_norm_gradient<T>(x, weight, bias, grad, residual, dx, normed, moments, rows, width, eps);                   \
  }                                                                                                                   \
  extern "C" __global__ void layer_norm_affine_##NAME(const float *x, const T *grad, const float *moments,            \
                                                      float *sums, int rows, int width, int chunk) {                  \
    layer_norm_affine<T>(x, grad, moments, sums, rows, width, chunk);                                                 \
  }                                                                                                                   \
  extern "C" __global__ void column_sums_##NAME(const T *values, float *sums, int rows, int width, int chunk) {       \
    column_sums<T>(values, sums, rows, width, chunk);                                                                 \
  }                                                                                                                   \
  extern "C" __global__ void bias_gelu_##NAME(const T *hidden, const float *bias, T *active, size_t count,            \
                                              int width) {                                                            \
    bias_gelu<T>(hidden, bias, active, count, width);                                                                 \
  }                                                                                                                   \
  extern "C" __global__ void bias_gelu_gradient_##NAME(T *hidden, const float *bias, T *grad, size_t count,           \
                                                       int width) {                                                   \
    bias_gelu_gradient<T>(hidden, bias, grad, count, width);                                                          \
  }                                                                                                                   \
  extern "C" __global__ void add_bias_##NAME(T *values, const float *bias, size_t count, int width) {                 \
    add_bias<T>(values, bias, count, width);                                                                          \
  }                                                                                                                   \
  extern "C" __global__ void residual_##NAME(const float *x, const T *y, const float *bias, const float *scale,       \
                                             float *out, size_t count, int width, size_t sample) {                    \
    residual<T>(x, y, bias, scale, out, count, width, sample);                                                        \
  }                                                                                                                   \
  extern "C" __global__ void scaled_##NAME(const float *grad, const float *scale, T *out, size_t count,               \
                                           int width, size_t sample) {                                                \
    scaled<T>(grad, scale, out, count, width, sample);                                                                       \
  }                                                                                                                   \
  extern "C" __global__ void widen_##NAME(const T *values, float *out, size_t count) { widen<T>(values, out, count); }

OF_VALUES(float, f32)
OF_VALUES(bf16, bf16)
