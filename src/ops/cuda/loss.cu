// Losses and their gradients; the incoming gradient of a loss is read on the device.
#include "prelude.cuh"

// Mean squared difference of rows [rows, width]; a warp per row.
extern "C" __global__ void patch_errors(const float *prediction, const float *target, float *errors, int rows,
                                        int width) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (row >= rows) return;
  float sum = 0.f;
  for (int i = threadIdx.x % WARP; i < width; i += WARP) {
    const float difference = prediction[size_t(row) * width + i] - target[size_t(row) * width + i];
    sum += difference * difference;
  }
  sum = warp_sum(sum) / width;
  if (threadIdx.x % WARP == 0) errors[row] = sum;
}

// result[0] = factor·Σ weights·values, over Σ weights where `normalized`; absent weights are 1. One block.
extern "C" __global__ void weighted_sum(const float *values, const float *weights, float *result, size_t count,
                                        float factor, int normalized) {
  __shared__ double partial[2][32];
  double sum = 0., total = 0.;
  for (size_t i = threadIdx.x; i < count; i += blockDim.x) {
    const double weight = weights ? weights[i] : 1.f;
    sum += weight * values[i];
    total += weight;
  }
  for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    total += __shfl_xor_sync(ALL_LANES, total, lanes);
  }
  if (threadIdx.x % WARP == 0) {
    partial[0][threadIdx.x / WARP] = sum;
    partial[1][threadIdx.x / WARP] = total;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = total = 0.;
  for (int warp = 0; warp < int(blockDim.x) / WARP; warp++) {
    sum += partial[0][warp];
    total += partial[1][warp];
  }
  result[0] = float(factor * (normalized ? sum / total : sum));
}

// gradient = 2·grad·weight / (width·Σ weights)·(prediction − target); `total` holds Σ weights.
extern "C" __global__ void patch_errors_gradient(const float *prediction, const float *target, const float *weights,
                                                 const float *grad, const float *total, float *gradient, size_t count,
                                                 int width) {
  const float scale = 2.f * grad[0] / (width * total[0]);
  for_values(count, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    Values<V> difference = load<V>(prediction + i);
    const Values<V> t = load<V>(target + i);
    const float weight = scale * weights[i / width];
    for (int k = 0; k < V; k++) difference.at[k] = weight * (difference.at[k] - t.at[k]);
    store<V>(gradient + i, difference);
  });
}

// Loss of a logit x against a target t in 0 … 1, and its derivative by x: binary cross-entropy.
struct Logistic {
  __device__ float loss(float x, float t) const { return fmaxf(x, 0.f) - x * t + log1pf(expf(-fabsf(x))); }
  __device__ float slope(float x, float t) const {
    const float small = expf(-fabsf(x));
    return (x < 0.f ? small : 1.f) / (1.f + small) - t;
  }
};

// d²/(2·beta) for |d| < beta and |d| − beta/2 beyond, d = x − t; the slope at 0 is 0.
struct SmoothL1 {
  float beta;

  __device__ float loss(float x, float t) const {
    const float d = fabsf(x - t);
    return d < beta ? 0.5f * d * d / beta : d - 0.5f * beta;
  }
  __device__ float slope(float x, float t) const {
    const float d = x - t;
    if (fabsf(d) < beta) return d / beta;
    return d > 0.f ? 1.f : d < 0.f ? -1.f : d;
  }
};

template <typename Loss>
__device__ __forceinline__ void pointwise(const float *x, const float *targets, float *losses, size_t count,
                                          Loss loss) {
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) losses[i] = loss.loss(x[i], targets[i]);
}

// gradient = share·grad·weight·slope; absent weights are 1.
template <typename Loss>
__device__ __forceinline__ void pointwise_gradient(const float *x, const float *targets, const float *weights,
                                                   const float *grad, float *gradient, size_t count, float share,
                                                   Loss loss) {
  const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) gradient[i] = share * grad[0] * (weights ? weights[i] : 1.f) * loss.slope(x[i], targets[i]);
}

extern "C" __global__ void logistic_loss(const float *x, const float *targets, float *losses, size_t count, float) {
  pointwise(x, targets, losses, count, Logistic());
}
extern "C" __global__ void logistic_loss_gradient(const float *x, const float *targets, const float *weights,
                                                  const float *grad, float *gradient, size_t count, float,
                                                  float share) {
  pointwise_gradient(x, targets, weights, grad, gradient, count, share, Logistic());
}
extern "C" __global__ void smooth_l1_loss(const float *x, const float *targets, float *losses, size_t count,
                                          float beta) {
  pointwise(x, targets, losses, count, SmoothL1{beta});
}
extern "C" __global__ void smooth_l1_loss_gradient(const float *x, const float *targets, const float *weights,
                                                   const float *grad, float *gradient, size_t count, float beta,
                                                   float share) {
  pointwise_gradient(x, targets, weights, grad, gradient, count, share, SmoothL1{beta});
}

// A target that is ignored.
constexpr unsigned IGNORED = 0xffffffffu;

// Largest and Σ exp(x − largest) of the logits x of a position, and Σ x; `step` values from class to class. A warp
// shares a position where `lanes` is 32, a thread has it alone where it is 1.
template <int LANES>
__device__ __forceinline__ void norms(const float *logits, int classes, size_t step, float &largest, float &sum,
                                      float &plain) {
  const int lane = threadIdx.x % LANES;
  largest = -INFINITY, plain = 0.f;
  for (int k = lane; k < classes; k += LANES) {
    largest = fmaxf(largest, logits[k * step]);
    plain += logits[k * step];
  }
  if (LANES > 1) largest = warp_max(largest), plain = warp_sum(plain);
  sum = 0.f;
  for (int k = lane; k < classes; k += LANES) sum += expf(logits[k * step] - largest);
  if (LANES > 1) sum = warp_sum(sum);
}

// Losses of positions of logits [B, K, P] against classes [B·P]; all classes have weight 1 if `weights` [K] is null.
template <int LANES>
__device__ __forceinline__ void cross_entropy(const float *logits, const unsigned *targets, const float *weights,
                                              float *losses, size_t count, int classes, int positions,
                                              float smoothing) {
  const size_t index = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / LANES;
  if (index >= count) return;
  logits += index / positions * classes * positions + index % positions;
  const unsigned target = targets[index];
  float largest, sum, plain;
  norms<LANES>(logits, classes, positions, largest, sum, plain);
  const float lse = largest + logf(sum);
  if (threadIdx.x % LANES > 0) return;
  if (target == IGNORED) {
    losses[index] = 0.f;
    return;
  }
  if (target >= unsigned(classes)) {
    losses[index] = NAN; // targets that stay on the device are not checked by the host
    return;
  }
  const float loss =
      (1.f - smoothing) * (lse - logits[size_t(target) * positions]) + smoothing * (lse - plain / classes);
  losses[index] = weights ? weights[target] * loss : loss;
}

// gradient = weight·factor·grad·(softmax − q)
template <int LANES>
__device__ __forceinline__ void cross_entropy_gradient(const float *logits, const unsigned *targets,
                                                       const float *weights, const float *grad, float *gradient,
                                                       size_t count, int classes, int positions, float smoothing,
                                                       float factor) {
  const size_t index = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / LANES;
  if (index >= count) return;
  const size_t start = index / positions * classes * positions + index % positions;
  logits += start;
  gradient += start;
  const unsigned target = targets[index];
  float largest, sum, plain;
  norms<LANES>(logits, classes, positions, largest, sum, plain);
  const float scale = target == IGNORED ? 0.f : factor * grad[0] * (weights ? weights[target] : 1.f);
  for (int k = threadIdx.x % LANES; k < classes; k += LANES) {
    const size_t i = size_t(k) * positions;
    const float q = smoothing / classes + (unsigned(k) == target ? 1.f - smoothing : 0.f);
    gradient[i] = scale * (expf(logits[i] - largest) / sum - q);
  }
}

extern "C" __global__ void cross_entropy_rows(const float *logits, const unsigned *targets, const float *weights,
                                              float *losses, size_t count, int classes, int positions,
                                              float smoothing) {
  cross_entropy<WARP>(logits, targets, weights, losses, count, classes, positions, smoothing);
}
extern "C" __global__ void cross_entropy_planes(const float *logits, const unsigned *targets, const float *weights,
                                                float *losses, size_t count, int classes, int positions,
                                                float smoothing) {
  cross_entropy<1>(logits, targets, weights, losses, count, classes, positions, smoothing);
}
extern "C" __global__ void cross_entropy_gradient_rows(const float *logits, const unsigned *targets,
                                                       const float *weights, const float *grad, float *gradient,
                                                       size_t count, int classes, int positions, float smoothing,
                                                       float factor) {
  cross_entropy_gradient<WARP>(logits, targets, weights, grad, gradient, count, classes, positions, smoothing, factor);
}
extern "C" __global__ void cross_entropy_gradient_planes(const float *logits, const unsigned *targets,
                                                         const float *weights, const float *grad, float *gradient,
                                                         size_t count, int classes, int positions, float smoothing,
                                                         float factor) {
  cross_entropy_gradient<1>(logits, targets, weights, grad, gradient, count, classes, positions, smoothing, factor);
}

// Losses of rows against soft targets [rows, K]; a warp per row.
extern "C" __global__ void soft_cross_entropy(const float *logits, const float *targets, float *losses, int rows,
                                              int classes) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (row >= rows) return;
  logits += size_t(row) * classes;
  targets += size_t(row) * classes;
  float largest, sum, plain;
  norms<WARP>(logits, classes, 1, largest, sum, plain);
  const float lse = largest + logf(sum);
  float loss = 0.f;
  for (int k = threadIdx.x % WARP; k < classes; k += WARP) loss += targets[k] * (lse - logits[k]);
  loss = warp_sum(loss);
  if (threadIdx.x % WARP == 0) losses[row] = loss;
}

// gradient = factor·grad·(softmax·Σ target − target)
extern "C" __global__ void soft_cross_entropy_gradient(const float *logits, const float *targets, const float *grad,
                                                       float *gradient, int rows, int classes, float factor) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (row >= rows) return;
  logits += size_t(row) * classes;
  targets += size_t(row) * classes;
  gradient += size_t(row) * classes;
  float largest, sum, plain, total = 0.f;
  norms<WARP>(logits, classes, 1, largest, sum, plain);
  for (int k = threadIdx.x % WARP; k < classes; k += WARP) total += targets[k];
  total = warp_sum(total);
  for (int k = threadIdx.x % WARP; k < classes; k += WARP)
    gradient[k] = factor * grad[0] * (expf(logits[k] - largest) / sum * total - targets[k]);
}
