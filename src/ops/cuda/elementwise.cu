// Functions of single values and their gradients.
#include "prelude.cuh"

// y = value(x) of every value.
template <typename Value> __device__ __forceinline__ void map(const float *x, float *y, size_t count, Value value) {
  for_values(count, count % 4 ? 1 : 4, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> at = load<V>(x + i);
    for (int k = 0; k < V; k++) at.at[k] = value(at.at[k]);
    store<V>(y + i, at);
  });
}

// dx = slope(x, grad) of every value.
template <typename Slope>
__device__ __forceinline__ void map(const float *x, const float *grad, float *dx, size_t count, Slope slope) {
  for_values(count, count % 4 ? 1 : 4, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> at = load<V>(x + i);
    const Values<V> g = load<V>(grad + i);
    for (int k = 0; k < V; k++) at.at[k] = slope(at.at[k], g.at[k]);
    store<V>(dx + i, at);
  });
}

extern "C" __global__ void relu(const float *x, float *y, size_t count) {
  map(x, y, count, [](float x) { return x <= 0.f ? 0.f : x; });
}
extern "C" __global__ void relu_gradient(const float *x, const float *grad, float *dx, size_t count) {
  map(x, grad, dx, count, [](float x, float g) { return x <= 0.f ? 0.f : g; });
}

extern "C" __global__ void gelu(const float *x, float *y, size_t count) {
  map(x, y, count, [](float x) { return x * normal(x); });
}
extern "C" __global__ void gelu_gradient(const float *x, const float *grad, float *dx, size_t count) {
  map(x, grad, dx, count, [](float x, float g) { return g * (normal(x) + x * density(x)); });
}
