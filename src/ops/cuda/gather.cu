// Rows of a matrix by their indices, sums of rows, and rows in the order of windows of a grid.
#include "prelude.cuh"

// out [count, width]: row rows[i] of x at i.
extern "C" __global__ void index_select(const float *x, const unsigned *rows, float *out, size_t count, int width) {
  for_values(count * width, width, [&](auto lanes, size_t i) {
    constexpr int V = decltype(lanes)::COUNT;
    store<V>(out + i, load<V>(x + size_t(rows[i / width]) * width + i % width));
  });
}

// sums [lists, width]: Σ of the rows places[starts[i]] … places[starts[i + 1] − 1], in order; without `places` the rows
// starts[i] … starts[i + 1] − 1. A block per list.
extern "C" __global__ void sum_rows(const float *x, const unsigned *starts, const unsigned *places, float *sums,
                                    int width) {
  for (int column = threadIdx.x; column < width; column += blockDim.x) {
    float sum = 0.f;
    for (unsigned i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++)
      sum += x[size_t(places ? places[i] : i) * width + column];
    sums[size_t(blockIdx.x) * width + column] = sum;
  }
}

// out [patches, patch·patch·channels], channels fastest, of images [images, channels, height, width]. Blocks of one row of
// the grid share the patches.
extern "C" __global__ void patchify(const float *images, float *out, size_t patches, int channels, int height, int width,
                                    int patch) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, values = patch * patch * channels;
  if (i >= values) return;
  const int channel = i % channels, x = i / channels % patch, y = i / channels / patch, across = width / patch;
  const int of_image = height / patch * across;
  for (size_t at = blockIdx.y; at < patches; at += gridDim.y) {
    const size_t image = at / of_image;
    const int place = at - image * of_image, row = place / across * patch + y, column = place % across * patch + x;
    out[at * values + i] = images[((image * channels + channel) * height + row) * width + column];
  }
}

// Grids of tokens [images, height, width] and their windows of side·side tokens, which reach beyond the grid below and to
// the right.
struct Windows {
  int height, width, side, down, across;

  __device__ Windows(int height, int width, int side)
      : height(height), width(width), side(side), down((height + side - 1) / side), across((width + side - 1) / side) {}

  // The row of the token at a place of the windows; false where there is none.
  __device__ bool token(size_t place, size_t &row) const {
    const int within = place % (side * side);
    const size_t window = place / (side * side);
    const int x = window % across * side + within % side, y = window / across % down * side + within / side;
    row = (window / across / down * height + y) * width + x;
    return y < height && x < width;
  }

  __device__ size_t place(size_t row) const {
    const int x = row % width, y = row / width % height;
    const size_t window = (row / width / height * down + y / side) * across + x / side;
    return window * side * side + y % side * side + x % side;
  }
};

__device__ __forceinline__ size_t index_of_warp() {
  return (size_t(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
}

// Copies a row; a warp.
template <typename T> __device__ __forceinline__ void copy_row(const T *from, T *to, int width) {
  const int lane = threadIdx.x % WARP;
  if (width % 4 == 0) {
    for (int i = 4 * lane; i < width; i += 4 * WARP) store<4>(to + i, load<4>(from + i));
  } else {
    for (int i = lane; i < width; i += WARP) to[i] = from[i];
  }
}

// out [places, channels] of rows [tokens, channels]: the row `padding`, or zeros, where there is no token.
template <typename T>
__device__ __forceinline__ void partition(const T *rows, const float *padding, T *out, size_t places, int height,
                                          int width, int side, int channels) {
  const size_t place = index_of_warp();
  if (place >= places) return;
  size_t row;
  T *to = out + place * channels;
  if (Windows(height, width, side).token(place, row)) return copy_row(rows + row * channels, to, channels);
  for (int i = threadIdx.x % WARP; i < channels; i += WARP) to[i] = narrow<T>(padding ? padding[i] : 0.f);
}

// out [tokens, channels] of rows [places, channels].
template <typename T>
__device__ __forceinline__ void merge(const T *rows, T *out, size_t tokens, int height, int width, int side,
                                      int channels) {
  const size_t token = index_of_warp();
  if (token >= tokens) return;
  copy_row(rows + Windows(height, width, side).place(token) * channels, out + token * channels, channels);
}

#define OF_VALUES(T, NAME)                                                                                            \
  extern "C" __global__ void partition_##NAME(const T *rows, const float *padding, T *out, size_t places, int height, \
                                              int width, int side, int channels) {                                    \
    partition<T>(rows, padding, out, places, height, width, side, channels);                                          \
  }                                                                                                                   \
  extern "C" __global__ void merge_##NAME(const T *rows, T *out, size_t tokens, int height, int width, int side,      \
                                          int channels) {                                                             \
    merge<T>(rows, out, tokens, height, width, side, channels);                                                       \
  }

OF_VALUES(float, f32)
OF_VALUES(bf16, bf16)
