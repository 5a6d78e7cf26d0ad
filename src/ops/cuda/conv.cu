// Columns of images (im2col) for convolutions as matrix products, and images from columns (col2im).
#include "prelude.cuh"

// An image [channels, height, width], and the grid of positions [rows, columns] of a kernel [kh, kw] on it.
struct Sizes {
  int channels, height, width, rows, columns, kh, kw, stride, padding;
};

__device__ __forceinline__ size_t first_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ size_t index_step() { return size_t(gridDim.x) * blockDim.x; }

// columns [images, channels·kh·kw, rows·columns] of images [images, channels, height, width]; zeros around.
template <typename T>
__device__ __forceinline__ void im2col(const float *images, T *columns, size_t count, const Sizes &s) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    size_t rest = i;
    const int x = rest % s.columns;
    rest /= s.columns;
    const int y = rest % s.rows;
    rest /= s.rows;
    const int kx = rest % s.kw;
    rest /= s.kw;
    const int ky = rest % s.kh;
    rest /= s.kh; // image·channels + channel
    const int row = y * s.stride + ky - s.padding, column = x * s.stride + kx - s.padding;
    const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
    columns[i] = narrow<T>(inside ? images[(rest * s.height + row) * s.width + column] : 0.f);
  }
}

// The transpose of im2col: every pixel of the images sums the columns into which it was read.
template <typename T>
__device__ __forceinline__ void col2im(const T *columns, float *images, size_t count, const Sizes &s) {
  for (size_t i = first_index(); i < count; i += index_step()) {
    const int column = i % s.width, row = i / s.width % s.height;
    const size_t plane = i / s.width / s.height; // image·channels + channel
    float sum = 0.f;
    for (int ky = 0; ky < s.kh; ky++) {
      const int top = row + s.padding - ky;
      if (top < 0 || top % s.stride || top / s.stride >= s.rows) continue;
      for (int kx = 0; kx < s.kw; kx++) {
        const int left = column + s.padding - kx;
        if (left < 0 || left % s.stride || left / s.stride >= s.columns) continue;
        const size_t tap = (plane * s.kh + ky) * s.kw + kx;
        sum += wide(columns[(tap * s.rows + top / s.stride) * s.columns + left / s.stride]);
      }
    }
    images[i] = sum;
  }
}

#define OF_VALUES(T, NAME)                                                                                            \
  extern "C" __global__ void conv_columns_##NAME(const float *images, T *columns, size_t count, int channels, int height,   \
                                           int width, int rows, int across, int kh, int kw, int stride,               \
                                           int padding) {                                                             \
    im2col<T>(images, columns, count, {channels, height, width, rows, across, kh, kw, stride, padding});              \
  }                                                                                                                   \
  extern "C" __global__ void conv_images_##NAME(const T *columns, float *images, size_t count, int channels, int height,   \
                                           int width, int rows, int across, int kh, int kw, int stride,               \
                                           int padding) {                                                             \
    col2im<T>(columns, images, count, {channels, height, width, rows, across, kh, kw, stride, padding});              \
  }

OF_VALUES(float, f32)
OF_VALUES(bf16, bf16)

// values [images, channels, pixels] += bias [channels]
extern "C" __global__ void add_channels(float *values, const float *bias, size_t count, int channels, int pixels) {
  for (size_t i = first_index(); i < count; i += index_step()) values[i] += bias[i / pixels % channels];
}

// Sums over images and pixels -> sums [channels]; a block per channel.
extern "C" __global__ void channel_sums(const float *values, float *sums, int images, int channels, int pixels) {
  __shared__ float partial[WARP];
  float sum = 0.f;
  for (int image = 0; image < images; image++) {
    const float *plane = values + (size_t(image) * channels + blockIdx.x) * pixels;
    float of_image = 0.f;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) of_image += plane[i];
    sum += of_image;
  }
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
