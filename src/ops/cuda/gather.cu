// Rows of a matrix by their indices, and sums of rows.
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
