// Columns of images (im2col) for convolutions as matrix products, and images from columns (col2im).
#include "prelude.cuh"

// An image [channels, height, width], and the grid of positions [rows, columns] of a kernel [kh, kw] on it.
struct Sizes {
  int channels, height, width, rows, columns, kh, kw, stride, padding;
};

// The value of a plane that this thread works on. Blocks of one row of the grid share the planes, so that only these need
// numbers of 64 bits.
__device__ __forceinline__ int place() { return blockIdx.x * blockDim.x + threadIdx.x; }

// The columns [channels·kh·kw, rows·columns] of each image, or of `together` images side by side, of images
// [images, channels, height, width]; zeros around. `planes` are images·channels·kh·kw.
template <typename T>
__device__ __forceinline__ void im2col(const float *images, T *columns, size_t planes, int together, const Sizes &s) {
  const int i = place(), pixels = s.rows * s.columns, taps = s.kh * s.kw, depth = s.channels * taps;
  if (i >= pixels) return;
  const int x = i % s.columns * s.stride - s.padding, y = i / s.columns * s.stride - s.padding;
  for (size_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const size_t channel = plane / taps, image = channel / s.channels; // the channel counts from the first image
    const int tap = plane - channel * taps, row = y + tap / s.kw, column = x + tap % s.kw;
    const bool inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
    const float value = inside ? images[(channel * s.height + row) * s.width + column] : 0.f;
    const size_t line = together > 1 ? (plane - image * depth) * together + image : plane;
    columns[line * pixels + i] = narrow<T>(value);
  }
}

// The transpose of im2col: every pixel of the images sums the columns into which it was read. `planes` are
// images·channels.
template <typename T>
__device__ __forceinline__ void col2im(const T *columns, float *images, size_t planes, const Sizes &s) {
  const int i = place();
  if (i >= s.height * s.width) return;
  const int column = i % s.width, row = i / s.width;
  for (size_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
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
    images[plane * s.height * s.width + i] = sum;
  }
}

// to [channels, images·pixels] of images [images, channels, pixels].
template <typename T>
__device__ __forceinline__ void side_by_side(const float *from, T *to, int images, int channels, int pixels) {
  const int i = place();
  if (i >= pixels) return;
  for (int plane = blockIdx.y; plane < images * channels; plane += gridDim.y)
    to[(size_t(plane % channels) * images + plane / channels) * pixels + i] =
        narrow<T>(from[size_t(plane) * pixels + i]);
}

#define OF_VALUES(T, NAME)                                                                                            \
  extern "C" __global__ void conv_columns_##NAME(const float *images, T *columns, size_t planes, int together,        \
                                                 int channels, int height, int width, int rows, int across, int kh,   \
                                                 int kw, int stride, int padding) {                                   \
    im2col<T>(images, columns, planes, together, {channels, height, width, rows, across, kh, kw, stride, padding});   \
  }                                                                                                                   \
  extern "C" __global__ void conv_images_##NAME(const T *columns, float *images, size_t planes, int channels,         \
                                                int height, int width, int rows, int across, int kh, int kw,          \
                                                int stride, int padding) {                                            \
    col2im<T>(columns, images, planes, {channels, height, width, rows, across, kh, kw, stride, padding});             \
  }                                                                                                                   \
  extern "C" __global__ void side_by_side_##NAME(const float *from, T *to, int images, int channels, int pixels) {    \
    side_by_side<T>(from, to, images, channels, pixels);                                                              \
  }

OF_VALUES(float, f32)
OF_VALUES(bf16, bf16)

// values [images, channels, pixels] += bias [channels]; `planes` are images·channels.
extern "C" __global__ void add_channels(float *values, const float *bias, size_t planes, int channels, int pixels) {
  const int i = place();
  if (i >= pixels) return;
  for (size_t plane = blockIdx.y; plane < planes; plane += gridDim.y) values[plane * pixels + i] += bias[plane % channels];
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
