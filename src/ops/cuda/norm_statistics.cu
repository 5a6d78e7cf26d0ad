// Batch and group norm of maps [B, C, size]: sets of planes with a mean and a variance each.
//
// A set is a channel of the whole batch (`group` 0) or `group` channels in a row of one image.
#include "prelude.cuh"

__device__ __forceinline__ int set_of(size_t plane, int channels, int group) {
  return group ? int(plane / group) : int(plane % channels);
}

// Values of the set of this block: calls each(index) for those of this thread.
template <typename Each>
__device__ __forceinline__ void for_set(int batch, int channels, int group, int size, Each each) {
  const size_t planes = group ? group : batch, step = group ? 1 : channels;
  const size_t first = group ? size_t(blockIdx.x) * group : blockIdx.x;
  for (size_t i = threadIdx.x; i < planes * size; i += blockDim.x) each((first + i / size * step) * size + i % size);
}

// moments [2, sets] get mean and biased variance; a block per set.
extern "C" __global__ void plane_moments(const float *x, float *moments, int batch, int channels, int group, int size) {
  __shared__ float partial[WARP];
  const float count = float(group ? group : batch) * size;
  float sum = 0.f;
  for_set(batch, channels, group, size, [&](size_t i) { sum += x[i]; });
  const float mean = block_sum(sum, partial) / count;
  float squares = 0.f;
  for_set(batch, channels, group, size, [&](size_t i) { squares += (x[i] - mean) * (x[i] - mean); });
  squares = block_sum(squares, partial);
  if (threadIdx.x == 0) {
    moments[blockIdx.x] = mean;
    moments[gridDim.x + blockIdx.x] = squares / count;
  }
}

// y = (x − mean)·weight/sqrt(var + eps) + bias
extern "C" __global__ void plane_norm(const float *x, const float *mean, const float *var, const float *weight,
                                      const float *bias, float *y, size_t count, int channels, int group, int size,
                                      float eps) {
  for_values(count, size, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    const size_t plane = i / size;
    const int set = set_of(plane, channels, group), channel = plane % channels;
    const float slope = rsqrtf(var[set] + eps) * weight[channel];
    Values<V> values = load<V>(x + i);
    for (int k = 0; k < V; k++) values.at[k] = (values.at[k] - mean[set]) * slope + bias[channel];
    store<V>(y + i, values);
  });
}

// sums [2, planes] get Σ g and Σ g·(x − mean); a warp per plane.
extern "C" __global__ void plane_slopes(const float *x, const float *grad, const float *mean, float *sums, int planes,
                                        int channels, int group, int size) {
  const int plane = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
  if (plane >= planes) return;
  const float centre = mean[set_of(plane, channels, group)];
  x += size_t(plane) * size;
  grad += size_t(plane) * size;
  float sum = 0.f, slope = 0.f;
  for (int i = lane; i < size; i += WARP) {
    sum += grad[i];
    slope += grad[i] * (x[i] - centre);
  }
  sum = warp_sum(sum);
  slope = warp_sum(slope);
  if (lane == 0) {
    sums[plane] = sum;
    sums[planes + plane] = slope;
  }
}

// shares [2, sets] get the terms of the gradient through the moments: mean(g·w) and mean(g·w·(x − mean))/(var + eps).
extern "C" __global__ void plane_shares(const float *sums, const float *weight, const float *var, float *shares,
                                        int sets, int batch, int channels, int group, int size, float eps) {
  const int set = blockIdx.x * blockDim.x + threadIdx.x, planes = batch * channels;
  if (set >= sets) return;
  const int members = group ? group : batch, step = group ? 1 : channels, first = group ? set * group : set;
  float sum = 0.f, slope = 0.f;
  for (int i = 0; i < members; i++) {
    const int plane = first + i * step;
    sum += weight[plane % channels] * sums[plane];
    slope += weight[plane % channels] * sums[planes + plane];
  }
  const float count = float(members) * size;
  shares[set] = sum / count;
  shares[sets + set] = slope / count / (var[set] + eps);
}

// affine [2, channels] gets the gradients of weight and bias.
extern "C" __global__ void plane_affine(const float *sums, const float *var, float *affine, int batch, int channels,
                                        int group, float eps) {
  const int channel = blockIdx.x * blockDim.x + threadIdx.x, planes = batch * channels;
  if (channel >= channels) return;
  float sum = 0.f, slope = 0.f;
  for (int plane = channel; plane < planes; plane += channels) {
    sum += sums[plane];
    slope += sums[planes + plane] * rsqrtf(var[set_of(plane, channels, group)] + eps);
  }
  affine[channel] = slope;
  affine[channels + channel] = sum;
}

// dx = (g·w − share − slope·(x − mean))/sqrt(var + eps); `shares` are absent where the moments are constants.
extern "C" __global__ void plane_gradient(const float *x, const float *grad, const float *mean, const float *var,
                                          const float *weight, const float *shares, float *dx, size_t count, int sets,
                                          int channels, int group, int size, float eps) {
  for_values(count, size, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    const size_t plane = i / size;
    const int set = set_of(plane, channels, group);
    const float scale = rsqrtf(var[set] + eps), w = weight[plane % channels];
    const float share = shares ? shares[set] : 0.f, slope = shares ? shares[sets + set] : 0.f;
    const Values<V> values = load<V>(x + i);
    Values<V> g = load<V>(grad + i);
    for (int k = 0; k < V; k++) g.at[k] = scale * (w * g.at[k] - share - slope * (values.at[k] - mean[set]));
    store<V>(dx + i, g);
  });
}
