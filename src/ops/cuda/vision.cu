// Pooling, channel-wise norms and regions of feature maps [images, channels, height, width].
#include "prelude.cuh"

__device__ __forceinline__ size_t first_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ size_t index_step() { return size_t(gridDim.x) * blockDim.x; }

// A linear map of one axis: x [planes, inputs, inner] -> y [planes, outputs, inner]. The taps of output i are
// starts[i] … starts[i + 1] − 1, each an input and its weight. Blocks of one row share the planes.
extern "C" __global__ void map_axis(const float *x, const unsigned *starts, const unsigned *taps, const float *weights,
                                    float *y, size_t planes, int inputs, int outputs, int inner) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= outputs * inner) return;
  const int output = at / inner, column = at % inner;
  const unsigned first = starts[output], last = starts[output + 1];
  for (size_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const float *from = x + plane * inputs * inner + column;
    float sum = 0.f;
    for (unsigned i = first; i < last; i++) sum += weights[i] * from[taps[i] * size_t(inner)];
    y[plane * outputs * inner + at] = sum;
  }
}

// The largest value of each window and its position in the plane: the first of equal values, or the last NaN.
extern "C" __global__ void max_pool(const float *x, float *y, unsigned *places, size_t count, int height, int width,
                                    int rows, int columns, int kernel, int stride, int padding) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const int left = i % columns * stride - padding, top = i / columns % rows * stride - padding;
    const float *plane = x + i / columns / rows * height * width;
    float most = -INFINITY;
    unsigned place = max(top, 0) * width + max(left, 0);
    for (int row = max(top, 0); row < min(top + kernel, height); row++)
      for (int column = max(left, 0); column < min(left + kernel, width); column++) {
        const float value = plane[row * width + column];
        if (value > most || isnan(value)) {
          most = value;
          place = row * width + column;
        }
      }
    y[i] = plane[place];
    places[i] = place;
  }
}

// Every pixel sums the gradients of the windows of which it is the maximum.
extern "C" __global__ void max_pool_gradient(const float *grad, const unsigned *places, float *gradient, size_t count,
                                             int height, int width, int rows, int columns, int kernel, int stride,
                                             int padding) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const int column = i % width, row = i / width % height;
    const size_t plane = i / width / height * rows * columns;
    const unsigned place = row * width + column;
    // The first window that reaches a pixel begins after pixel − kernel.
    const int top = max(0, (row + padding - kernel + stride) / stride), bottom = min(rows - 1, (row + padding) / stride);
    const int left = max(0, (column + padding - kernel + stride) / stride),
              right = min(columns - 1, (column + padding) / stride);
    float sum = 0.f;
    for (int y = top; y <= bottom; y++)
      for (int z = left; z <= right; z++)
        if (places[plane + y * columns + z] == place) sum += grad[plane + y * columns + z];
    gradient[i] = sum;
  }
}

// The position of a sample on one axis: two pixels and their weights, or none if it is outside.
struct Sample {
  int low, high;
  float below, above;

  __device__ Sample(float position, int pixels) : low(0), high(0), below(0.f), above(0.f) {
    if (position < -1.f || position > pixels) return;
    position = fmaxf(position, 0.f);
    low = min(int(position), pixels - 1);
    high = min(low + 1, pixels - 1);
    above = low == high ? 0.f : position - low;
    below = 1.f - above;
  }
};

// A bin of a box [image, x1, y1, x2, y2]: its start, its size and its samples on each axis.
struct Bin {
  int image, rows, columns;
  float top, left, height, width;

  __device__ Bin(const float *box, int i, int j, int bins_down, int bins_across, float scale, int ratio) {
    image = int(box[0]);
    const float x1 = box[1] * scale - 0.5f, y1 = box[2] * scale - 0.5f;
    width = (box[3] * scale - 0.5f - x1) / bins_across;
    height = (box[4] * scale - 0.5f - y1) / bins_down;
    top = y1 + i * height;
    left = x1 + j * width;
    rows = ratio > 0 ? ratio : max(0, int(ceilf(height)));
    columns = ratio > 0 ? ratio : max(0, int(ceilf(width)));
  }

  // Calls each(row, column, weight) for all pixels under the bin; the weights are shares of the mean of the samples.
  template <typename Each> __device__ void pixels(int map_height, int map_width, Each each) const {
    const float share = 1.f / max(rows, 1) / max(columns, 1);
    for (int y = 0; y < rows; y++) {
      const Sample down(top + (y + 0.5f) * height / rows, map_height);
      for (int x = 0; x < columns; x++) {
        const Sample across(left + (x + 0.5f) * width / columns, map_width);
        each(down.low, across.low, down.below * across.below * share);
        each(down.low, across.high, down.below * across.above * share);
        each(down.high, across.low, down.above * across.below * share);
        each(down.high, across.high, down.above * across.above * share);
      }
    }
  }
};

extern "C" __global__ void roi_align(const float *x, const float *boxes, float *y, size_t count, int channels,
                                     int height, int width, int down, int across, float scale, int ratio) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const size_t channel = i / across / down % channels, box = i / across / down / channels;
    const Bin bin(boxes + 5 * box, i / across % down, i % across, down, across, scale, ratio);
    const float *plane = x + (bin.image * size_t(channels) + channel) * height * width;
    float sum = 0.f;
    bin.pixels(height, width, [&](int row, int column, float weight) { sum += weight * plane[row * width + column]; });
    y[i] = sum;
  }
}

// Adds to `gradient`; the order of boxes that overlap is not fixed.
extern "C" __global__ void roi_align_gradient(const float *grad, const float *boxes, float *gradient, size_t count,
                                              int channels, int height, int width, int down, int across, float scale,
                                              int ratio) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const size_t channel = i / across / down % channels, box = i / across / down / channels;
    const Bin bin(boxes + 5 * box, i / across % down, i % across, down, across, scale, ratio);
    float *plane = gradient + (bin.image * size_t(channels) + channel) * height * width;
    bin.pixels(height, width, [&](int row, int column, float weight) {
      if (weight > 0.f) atomicAdd(plane + row * width + column, weight * grad[i]);
    });
  }
}

// Norm over the channels of every pixel; moments [2, images·pixels] get mean and 1/sqrt(var + eps).
extern "C" __global__ void layer_norm2d(const float *x, const float *weight, const float *bias, float *y,
                                        float *moments, size_t count, int channels, int pixels, float eps) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const size_t start = i / pixels * channels * pixels + i % pixels;
    float sum = 0.f, squares = 0.f;
    for (int c = 0; c < channels; c++) sum += x[start + size_t(c) * pixels];
    const float mean = sum / channels;
    for (int c = 0; c < channels; c++) {
      const float centred = x[start + size_t(c) * pixels] - mean;
      squares += centred * centred;
    }
    const float scale = rsqrtf(squares / channels + eps);
    for (int c = 0; c < channels; c++) {
      const size_t at = start + size_t(c) * pixels;
      y[at] = (x[at] - mean) * scale * weight[c] + bias[c];
    }
    moments[i] = mean;
    moments[count + i] = scale;
  }
}

extern "C" __global__ void layer_norm2d_gradient(const float *x, const float *weight, const float *grad,
                                                 const float *moments, float *dx, size_t count, int channels,
                                                 int pixels) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const size_t start = i / pixels * channels * pixels + i % pixels;
    const float mean = moments[i], scale = moments[count + i];
    float sum = 0.f, slope = 0.f;
    for (int c = 0; c < channels; c++) {
      const size_t at = start + size_t(c) * pixels;
      sum += grad[at] * weight[c];
      slope += grad[at] * weight[c] * (x[at] - mean);
    }
    sum /= channels;
    slope *= scale * scale / channels;
    for (int c = 0; c < channels; c++) {
      const size_t at = start + size_t(c) * pixels;
      dx[at] = scale * (grad[at] * weight[c] - sum - (x[at] - mean) * slope);
    }
  }
}

// Σ g·x̂ [channels] over images and pixels; a block per channel.
extern "C" __global__ void layer_norm2d_slope(const float *x, const float *grad, const float *moments, float *sums,
                                              int images, int channels, int pixels) {
  __shared__ float partial[WARP];
  const size_t count = size_t(images) * pixels;
  float sum = 0.f;
  for (int image = 0; image < images; image++) {
    const size_t start = (size_t(image) * channels + blockIdx.x) * pixels;
    float of_image = 0.f;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
      const size_t pixel = size_t(image) * pixels + i;
      of_image += grad[start + i] * (x[start + i] - moments[pixel]) * moments[count + pixel];
    }
    sum += of_image;
  }
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
