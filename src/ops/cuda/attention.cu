// Softmax attention of the heads in qkv [B, N, 3·C], laid out as (3, heads, C/heads), without the N×N matrix.
//
// bf16: four warps work on 64 rows by the matrix instructions, tile by tile of the other side, as in FlashAttention-2
// (arXiv:2307.08691). f32: a warp per row. The backward pass computes probabilities again from the logarithms of their
// sums, once for the queries' gradient and once for the keys' and values', so that no sum depends on the order of
// blocks. A block has all keys of its queries, so it sums their gradients of rows and columns of a bias alone, in shared
// memory; gradients of a table, which all samples share, are added atomically.
#include "prelude.cuh"

constexpr int WARPS = 4, THREADS = WARPS * WARP;
constexpr int ROWS = 16 * WARPS; // of a block, 16 a warp

// One head of one sample.
struct Head {
  int n, d, channels, heads, sample, head;
  float scale;

  __device__ Head(int n, int d, int heads, float scale, int index)
      : n(n), d(d), channels(heads * d), heads(heads), sample(index / heads), head(index % heads), scale(scale) {}

  // Start of part 0 (queries), 1 (keys) or 2 (values) in qkv, whose rows are 3·C apart.
  __device__ size_t input(int part) const {
    return (size_t(sample) * n * 3 + part) * channels + size_t(head) * d;
  }
  __device__ size_t output() const { return size_t(sample) * n * channels + size_t(head) * d; }
  // Start of the values per query.
  __device__ size_t rows() const { return (size_t(sample) * heads + head) * n; }
};

// What is added to scores: a table [heads, N, N], a table [offsets, heads] of a grid h·w where `offsets` is set, or rows
// [B, heads, N, h] and columns [B, heads, N, w] for a grid of keys; nothing where pointers are null. The same three hold
// its gradient.
struct Bias {
  const float *table, *rows, *columns;
  float *table_gradient, *rows_gradient, *columns_gradient;
  int h, w, offsets; // 1: of a grid; 2: of a grid after a class token, with three more rows (BEiT)

  __device__ bool any() const { return table || rows; }
  __device__ bool any_gradient() const { return table_gradient || rows_gradient || columns_gradient; }

  // Rows of a table of offsets.
  __device__ int count() const { return (2 * h - 1) * (2 * w - 1) + (offsets == 2 ? 3 : 0); }

  __device__ int offset(int query, int key) const {
    query -= offsets - 1;
    key -= offsets - 1;
    const int inner = (2 * h - 1) * (2 * w - 1);
    if (query < 0) return key < 0 ? inner + 2 : inner;
    if (key < 0) return inner + 1;
    return (query / w + h - 1 - key / w) * (2 * w - 1) + query % w + w - 1 - key % w;
  }

  __device__ size_t place(const Head &head, int query, int key) const {
    if (offsets) return size_t(offset(query, key)) * head.heads + head.head;
    return (size_t(head.head) * head.n + query) * head.n + key;
  }

  __device__ float of(const Head &head, int query, int key) const {
    float sum = 0.f;
    if (table) sum += table[place(head, query, key)];
    if (rows) sum += rows[(head.rows() + query) * h + key / w] + columns[(head.rows() + query) * w + key % w];
    return sum;
  }

  __device__ void add(const Head &head, int query, int key, float gradient) const {
    if (table_gradient) atomicAdd(table_gradient + place(head, query, key), gradient);
    if (rows_gradient) atomicAdd(rows_gradient + (head.rows() + query) * h + key / w, gradient);
    if (columns_gradient) atomicAdd(columns_gradient + (head.rows() + query) * w + key % w, gradient);
  }
};

// The gradient of a bias, summed in shared memory over the keys of the QUERIES queries of a block, COUNT keys at a time:
// rows [QUERIES, h] and columns [QUERIES, w], or the rows of a table of offsets. Without memory for it, gradients are
// added atomically one by one. A warp has queries of its own.
template <int QUERIES, int COUNT> struct BiasSums {
  const Head &head;
  const Bias &bias;
  float *slopes, *rows, *columns; // the first of `slopes` are those of a table
  const int row_step, column_step; // odd, so that the sums of queries are in different banks

  __device__ BiasSums(const Head &head, const Bias &bias, float *memory)
      : head(head), bias(bias), slopes(memory), rows(memory + QUERIES * (COUNT + 1)),
        columns(rows + QUERIES * (bias.h | 1)), row_step(bias.h | 1), column_step(bias.w | 1) {}

  // Sets the sums to 0. A barrier follows before they are used.
  __device__ void clear() const {
    const int count = bias.offsets ? bias.count() : QUERIES * (COUNT + 1 + row_step + column_step);
    for (int i = threadIdx.x; i < count; i += blockDim.x) slopes[i] = 0.f;
  }

  // Takes the gradient of the score of a query, numbered within the block, and a key from `tile` on. All lanes of a warp
  // call finish() after the last key of a tile.
  __device__ void add(int query, int column, float gradient) const { slopes[query * (COUNT + 1) + column] = gradient; }
  __device__ void add_offset(int query, int key, float gradient) const {
    atomicAdd(slopes + bias.offset(query, key), gradient);
  }

  // Adds the slopes of a tile to the sums, in the order of keys. The warp has `count` queries, up to 16, from `first`
  // on; half of its lanes sum rows, the others columns.
  __device__ void finish(int first, int count, int tile) const {
    __syncwarp();
    const int lane = threadIdx.x % WARP, query = first + lane % (WARP / 2);
    if (lane % (WARP / 2) < count) {
      const bool down = lane < WARP / 2;
      float *sums = down ? rows + query * row_step : columns + query * column_step;
      int y = tile / bias.w, x = tile % bias.w;
      for (int i = 0; i < min(COUNT, head.n - tile); i++) {
        sums[down ? y : x] += slopes[query * (COUNT + 1) + i];
        if (++x == bias.w) x = 0, y++;
      }
    }
    __syncwarp();
  }

  // Writes the sums; `start` is the first query of the block. All threads of the block call it.
  __device__ void write(int start) const {
    __syncthreads();
    if (bias.offsets) {
      for (int i = threadIdx.x; i < bias.count(); i += blockDim.x)
        if (slopes[i] != 0.f) atomicAdd(bias.table_gradient + size_t(i) * head.heads + head.head, slopes[i]);
      return;
    }
    const int queries = min(QUERIES, head.n - start);
    const size_t first = head.rows() + start;
    if (bias.rows_gradient)
      for (int i = threadIdx.x; i < queries * bias.h; i += blockDim.x)
        bias.rows_gradient[first * bias.h + i] = rows[i / bias.h * row_step + i % bias.h];
    if (bias.columns_gradient)
      for (int i = threadIdx.x; i < queries * bias.w; i += blockDim.x)
        bias.columns_gradient[first * bias.w + i] = columns[i / bias.w * column_step + i % bias.w];
  }
};

extern __shared__ float dynamic[];

// A tile of COUNT rows of D channels in shared memory, moved 16 bytes at a time. Eight more channels keep rows in
// different banks.
template <int D, int COUNT> struct alignas(16) Tile {
  bf16 at[COUNT][D + 8];

  // Rows from `start` on of a matrix [n, d] whose rows are `step` apart; zeros beyond it.
  __device__ void fill(const bf16 *from, int start, int n, int d, size_t step) {
    const bf16 zero = __float2bfloat16_rn(0.f);
    if (d % 8 == 0) {
      for (int i = threadIdx.x; i < COUNT * (D / 8); i += THREADS) {
        const int row = i / (D / 8), column = i % (D / 8) * 8;
        uint4 eight = make_uint4(0, 0, 0, 0);
        if (start + row < n && column < d)
          eight = *reinterpret_cast<const uint4 *>(from + (start + row) * step + column);
        *reinterpret_cast<uint4 *>(&at[row][column]) = eight;
      }
    } else {
      for (int i = threadIdx.x; i < COUNT * D; i += THREADS) {
        const int row = i / D, column = i % D;
        at[row][column] = start + row < n && column < d ? from[(start + row) * step + column] : zero;
      }
    }
  }
};

__device__ __forceinline__ uint32_t word(const bf16 *pair) { return *reinterpret_cast<const uint32_t *>(pair); }

// Rows first … first + 15 and columns k … k + 15 as the left operand.
template <int D, int COUNT>
__device__ __forceinline__ void left(uint32_t (&a)[4], const Tile<D, COUNT> &tile, int first, int k) {
  const int row = first + threadIdx.x % WARP / 4, column = k + threadIdx.x % 4 * 2;
  a[0] = word(&tile.at[row][column]);
  a[1] = word(&tile.at[row + 8][column]);
  a[2] = word(&tile.at[row][column + 8]);
  a[3] = word(&tile.at[row + 8][column + 8]);
}

// Two accumulators next to each other, 16 columns, as the left operand of the next product.
__device__ __forceinline__ void left(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = pack(first[0], first[1]);
  a[1] = pack(first[2], first[3]);
  a[2] = pack(second[0], second[1]);
  a[3] = pack(second[2], second[3]);
}

// scores [16, COUNT] = rows · tileᵀ, where `rows` holds the left operands of 16 rows.
template <int D, int COUNT>
__device__ __forceinline__ void across(float (&scores)[COUNT / 8][4], const uint32_t (&rows)[D / 16][4],
                                       const Tile<D, COUNT> &tile) {
  const int row = threadIdx.x % WARP / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < COUNT / 8; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) scores[j][i] = 0.f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
      const bf16 *at = &tile.at[j * 8 + row][k * 16 + column];
      multiply(scores[j], rows[k], {word(at), word(at + 8)});
    }
  }
}

// scores·scale + bias of 16 rows from `row` on and the columns from `column` on: queries and keys, or keys and queries
// where KEYS is set.
template <bool KEYS, int COUNT>
__device__ __forceinline__ void biased(float (&scores)[COUNT][4], const Head &head, const Bias &bias, int row,
                                       int column) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int j = 0; j < COUNT; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) scores[j][i] *= head.scale;
  if (!bias.any()) return;
#pragma unroll
  for (int j = 0; j < COUNT; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int down = row + lane / 4 + i / 2 * 8, across = column + j * 8 + lane % 4 * 2 + i % 2;
      if (down < head.n && across < head.n)
        scores[j][i] += KEYS ? bias.of(head, across, down) : bias.of(head, down, across);
    }
}

// sums [16, D] += weights [16, COUNT] · tile, weights rounded to bf16.
template <int D, int COUNT>
__device__ __forceinline__ void along(float (&sums)[D / 8][4], const float (&weights)[COUNT / 8][4],
                                      const Tile<D, COUNT> &tile) {
  const int lane = threadIdx.x % WARP, row = lane % 16, column = lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < COUNT / 16; k++) {
    uint32_t a[4];
    left(a, weights[2 * k], weights[2 * k + 1]);
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
      uint32_t b[4];
      load_transposed(b, &tile.at[k * 16 + row][j * 16 + column]);
      multiply(sums[2 * j], a, {b[0], b[1]});
      multiply(sums[2 * j + 1], a, {b[2], b[3]});
    }
  }
}

// Writes factor·sums to rows first … first + 15 of a matrix [n, d] whose rows are `step` apart; `half` 0 and 1 are the
// rows of this thread.
template <int D>
__device__ __forceinline__ void write(bf16 *to, const float (&sums)[D / 8][4], const float (&factor)[2], int first,
                                      int n, int d, size_t step) {
  const int lane = threadIdx.x % WARP;
  for (int half = 0; half < 2; half++) {
    const int row = first + lane / 4 + 8 * half;
    if (row >= n) continue;
    for (int j = 0; j < D / 8; j++) {
      const int column = j * 8 + lane % 4 * 2;
      for (int i = 0; i < 2; i++)
        if (column + i < d) to[row * step + column + i] = __float2bfloat16_rn(factor[half] * sums[j][2 * half + i]);
    }
  }
}

// Sum or maximum over the four lanes that share a row of an accumulator.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// out [B, N, C] and the logarithms of sums of exponentials, lse [B, heads, N].
template <int D>
__device__ void forward_bf16(const bf16 *qkv, bf16 *out, float *lse, const Head &head, const Bias &bias, int start) {
  constexpr int COUNT = 64;
  __shared__ Tile<D, COUNT> keys, values;
  const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * 16;
  const size_t step = 3 * size_t(head.channels);

  uint32_t queries[D / 16][4];
  keys.fill(qkv + head.input(0), start, head.n, head.d, step);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < D / 16; k++) left(queries[k], keys, first, k * 16);

  float sums[D / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
  for (int tile = 0; tile < head.n; tile += COUNT) {
    __syncthreads();
    keys.fill(qkv + head.input(1), tile, head.n, head.d, step);
    values.fill(qkv + head.input(2), tile, head.n, head.d, step);
    __syncthreads();
    float scores[COUNT / 8][4];
    across(scores, queries, keys);
    biased<false>(scores, head, bias, start + first, tile);
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (tile + j * 8 + lane % 4 * 2 + i % 2 >= head.n) scores[j][i] = -INFINITY;
        most[i / 2] = fmaxf(most[i / 2], scores[j][i]);
      }
    for (int half = 0; half < 2; half++) {
      most[half] = fmaxf(largest[half], row_max(most[half]));
      const float shrink = __expf(largest[half] - most[half]);
      largest[half] = most[half];
      total[half] *= shrink;
#pragma unroll
      for (int j = 0; j < D / 8; j++) sums[j][2 * half] *= shrink, sums[j][2 * half + 1] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        scores[j][i] = __expf(scores[j][i] - largest[i / 2]);
        total[i / 2] += scores[j][i];
      }
    along(sums, scores, values);
  }
  float factor[2];
  for (int half = 0; half < 2; half++) {
    total[half] = row_sum(total[half]);
    factor[half] = 1.f / total[half];
    const int query = start + first + lane / 4 + 8 * half;
    if (query < head.n && lane % 4 == 0) lse[head.rows() + query] = largest[half] + logf(total[half]);
  }
  write<D>(out + head.output(), sums, factor, start + first, head.n, head.d, head.channels);
}

// The queries' part of the gradient of qkv, and the bias's; delta [B, heads, N] are the sums of grad·out.
template <int D>
__device__ void queries_gradient_bf16(const bf16 *qkv, const bf16 *grad, const float *lse, const float *delta,
                                      bf16 *gradient, const Head &head, const Bias &bias, int start, bool shared) {
  constexpr int COUNT = D > 64 ? 16 : 32; // wider heads leave fewer registers
  const BiasSums<ROWS, COUNT> of_bias(head, bias, dynamic);
  if (shared) of_bias.clear();
  __shared__ Tile<D, ROWS> rows;
  __shared__ Tile<D, COUNT> keys, values;
  const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * 16;
  const size_t step = 3 * size_t(head.channels);

  uint32_t queries[D / 16][4], grads[D / 16][4];
  rows.fill(qkv + head.input(0), start, head.n, head.d, step);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < D / 16; k++) left(queries[k], rows, first, k * 16);
  __syncthreads();
  rows.fill(grad + head.output(), start, head.n, head.d, head.channels);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < D / 16; k++) left(grads[k], rows, first, k * 16);

  float of_row[2], mean[2];
  for (int half = 0; half < 2; half++) {
    const int query = min(start + first + lane / 4 + 8 * half, head.n - 1);
    of_row[half] = lse[head.rows() + query];
    mean[half] = delta[head.rows() + query];
  }
  float sums[D / 8][4] = {};
  for (int tile = 0; tile < head.n; tile += COUNT) {
    __syncthreads();
    keys.fill(qkv + head.input(1), tile, head.n, head.d, step);
    values.fill(qkv + head.input(2), tile, head.n, head.d, step);
    __syncthreads();
    float scores[COUNT / 8][4], slopes[COUNT / 8][4];
    across(scores, queries, keys);
    across(slopes, grads, values);
    biased<false>(scores, head, bias, start + first, tile);
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int query = start + first + lane / 4 + i / 2 * 8, key = tile + j * 8 + lane % 4 * 2 + i % 2;
        const bool there = query < head.n && key < head.n;
        scores[j][i] = there ? __expf(scores[j][i] - of_row[i / 2]) * (slopes[j][i] - mean[i / 2]) : 0.f;
      }
    if (bias.any_gradient()) {
#pragma unroll
      for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int row = first + lane / 4 + i / 2 * 8, column = j * 8 + lane % 4 * 2 + i % 2;
          const int query = start + row, key = tile + column;
          if (shared && !bias.offsets) of_bias.add(row, column, scores[j][i]);
          else if (query >= head.n || key >= head.n) continue;
          else if (shared) of_bias.add_offset(query, key, scores[j][i]);
          else bias.add(head, query, key, scores[j][i]);
        }
      if (shared && !bias.offsets) of_bias.finish(first, 16, tile);
    }
    along(sums, scores, keys);
  }
  write<D>(gradient + head.input(0), sums, {head.scale, head.scale}, start + first, head.n, head.d, step);
  if (shared) of_bias.write(start);
}

// The keys' and values' parts of the gradient of qkv.
template <int D>
__device__ void keys_gradient_bf16(const bf16 *qkv, const bf16 *grad, const float *lse, const float *delta,
                                   bf16 *gradient, const Head &head, const Bias &bias, int start) {
  constexpr int COUNT = D > 64 ? 16 : 32; // wider heads leave fewer registers
  __shared__ Tile<D, ROWS> rows;
  __shared__ Tile<D, COUNT> queries, grads;
  __shared__ float of_query[COUNT], mean[COUNT];
  const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * 16;
  const size_t step = 3 * size_t(head.channels);

  uint32_t keys[D / 16][4], values[D / 16][4];
  rows.fill(qkv + head.input(1), start, head.n, head.d, step);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < D / 16; k++) left(keys[k], rows, first, k * 16);
  __syncthreads();
  rows.fill(qkv + head.input(2), start, head.n, head.d, step);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < D / 16; k++) left(values[k], rows, first, k * 16);

  float of_keys[D / 8][4] = {}, of_values[D / 8][4] = {};
  for (int tile = 0; tile < head.n; tile += COUNT) {
    __syncthreads();
    queries.fill(qkv + head.input(0), tile, head.n, head.d, step);
    grads.fill(grad + head.output(), tile, head.n, head.d, head.channels);
    if (threadIdx.x < COUNT) {
      const int query = min(tile + int(threadIdx.x), head.n - 1);
      of_query[threadIdx.x] = lse[head.rows() + query];
      mean[threadIdx.x] = delta[head.rows() + query];
    }
    __syncthreads();
    float scores[COUNT / 8][4], slopes[COUNT / 8][4];
    across(scores, keys, queries);
    across(slopes, values, grads);
    biased<true>(scores, head, bias, start + first, tile);
#pragma unroll
    for (int j = 0; j < COUNT / 8; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = j * 8 + lane % 4 * 2 + i % 2;
        const int key = start + first + lane / 4 + i / 2 * 8, query = tile + column;
        const bool there = query < head.n && key < head.n;
        scores[j][i] = there ? __expf(scores[j][i] - of_query[column]) : 0.f;
        slopes[j][i] = scores[j][i] * (slopes[j][i] - mean[column]);
      }
    along(of_values, scores, grads);
    along(of_keys, slopes, queries);
  }
  write<D>(gradient + head.input(1), of_keys, {head.scale, head.scale}, start + first, head.n, head.d, step);
  write<D>(gradient + head.input(2), of_values, {1.f, 1.f}, start + first, head.n, head.d, step);
}

// f32: a warp has a row, its lanes the 32 rows of the tile of the other side; channels c·32 + lane of a sum.
constexpr int MOST = 128; // channels of a head

// Two tiles of 32 rows of d channels, the rows d + 1 apart, and two rows for each warp.
struct Shared {
  float *first, *second, *own, *other;

  __device__ Shared(float *memory, int d) {
    first = memory;
    second = first + WARP * (d + 1);
    own = second + WARP * (d + 1) + threadIdx.x / WARP * 2 * d;
    other = own + d;
  }

  // Behind all of it.
  __device__ float *end(int d) const { return first + 2 * WARP * (d + 1) + WARPS * 2 * d; }
};

__device__ __forceinline__ void fill(float *tile, const float *from, int start, int n, int d, size_t step) {
  for (int i = threadIdx.x; i < WARP * d; i += THREADS) {
    const int row = i / d, column = i % d;
    tile[row * (d + 1) + column] = start + row < n ? from[(start + row) * step + column] : 0.f;
  }
}

__device__ __forceinline__ void copy(float *to, const float *from, int d) {
  for (int i = threadIdx.x % WARP; i < d; i += WARP) to[i] = from[i];
}

__device__ __forceinline__ float dot(const float *row, const float *tile, int d) {
  const float *other = tile + threadIdx.x % WARP * (d + 1);
  float sum = 0.f;
  for (int i = 0; i < d; i++) sum += row[i] * other[i];
  return sum;
}

// sums += Σ over lanes of weight · the lane's row of the tile
__device__ __forceinline__ void add(float (&sums)[MOST / WARP], float weight, const float *tile, int d) {
  for (int row = 0; row < WARP; row++) {
    const float factor = __shfl_sync(ALL_LANES, weight, row);
#pragma unroll
    for (int c = 0; c < MOST / WARP; c++) {
      const int column = c * WARP + threadIdx.x % WARP;
      if (column < d) sums[c] += factor * tile[row * (d + 1) + column];
    }
  }
}

__device__ __forceinline__ void write(float *to, const float (&sums)[MOST / WARP], float factor, int d) {
  for (int c = 0; c < MOST / WARP; c++) {
    const int column = c * WARP + threadIdx.x % WARP;
    if (column < d) to[column] = factor * sums[c];
  }
}

__device__ void forward_f32(const float *qkv, float *out, float *lse, const Head &head, const Bias &bias, int start) {
  const Shared shared(dynamic, head.d);
  const int lane = threadIdx.x % WARP, d = head.d;
  const int query = min(start + int(threadIdx.x) / WARP, head.n - 1);
  const size_t step = 3 * size_t(head.channels);
  copy(shared.own, qkv + head.input(0) + query * step, d);
  float sums[MOST / WARP] = {}, largest = -INFINITY, total = 0.f;
  for (int tile = 0; tile < head.n; tile += WARP) {
    __syncthreads();
    fill(shared.first, qkv + head.input(1), tile, head.n, d, step);
    fill(shared.second, qkv + head.input(2), tile, head.n, d, step);
    __syncthreads();
    const int key = tile + lane;
    float score = dot(shared.own, shared.first, d) * head.scale;
    score = key < head.n ? score + bias.of(head, query, key) : -INFINITY;
    const float most = fmaxf(largest, warp_max(score)), shrink = expf(largest - most);
    const float weight = expf(score - most);
    largest = most;
    total = total * shrink + warp_sum(weight);
    for (int c = 0; c < MOST / WARP; c++) sums[c] *= shrink;
    add(sums, weight, shared.second, d);
  }
  if (start + int(threadIdx.x) / WARP >= head.n) return;
  write(out + head.output() + size_t(query) * head.channels, sums, 1.f / total, d);
  if (lane == 0) lse[head.rows() + query] = largest + logf(total);
}

__device__ void queries_gradient_f32(const float *qkv, const float *grad, const float *lse, const float *delta,
                                     float *gradient, const Head &head, const Bias &bias, int start, bool sums_bias) {
  const Shared shared(dynamic, head.d);
  const BiasSums<WARPS, WARP> of_bias(head, bias, shared.end(head.d));
  if (sums_bias) of_bias.clear();
  const int lane = threadIdx.x % WARP, d = head.d, own = threadIdx.x / WARP;
  const bool outside = start + int(threadIdx.x) / WARP >= head.n;
  const int query = min(start + int(threadIdx.x) / WARP, head.n - 1);
  const size_t step = 3 * size_t(head.channels);
  copy(shared.own, qkv + head.input(0) + query * step, d);
  copy(shared.other, grad + head.output() + size_t(query) * head.channels, d);
  const float of_row = lse[head.rows() + query], mean = delta[head.rows() + query];
  float sums[MOST / WARP] = {};
  for (int tile = 0; tile < head.n; tile += WARP) {
    __syncthreads();
    fill(shared.first, qkv + head.input(1), tile, head.n, d, step);
    fill(shared.second, qkv + head.input(2), tile, head.n, d, step);
    __syncthreads();
    const int key = tile + lane;
    const float score = dot(shared.own, shared.first, d) * head.scale, slope = dot(shared.other, shared.second, d);
    float weight = 0.f;
    if (key < head.n) {
      weight = expf(score + bias.of(head, query, key) - of_row) * (slope - mean);
    }
    if (bias.any_gradient()) {
      if (sums_bias && !bias.offsets) {
        of_bias.add(own, lane, weight);
        of_bias.finish(own, 1, tile);
      } else if (!outside && key < head.n) {
        if (sums_bias) of_bias.add_offset(query, key, weight);
        else bias.add(head, query, key, weight);
      }
    }
    add(sums, weight, shared.first, d);
  }
  if (!outside) write(gradient + head.input(0) + query * step, sums, head.scale, d);
  if (sums_bias) of_bias.write(start);
}

__device__ void keys_gradient_f32(const float *qkv, const float *grad, const float *lse, const float *delta,
                                  float *gradient, const Head &head, const Bias &bias, int start) {
  const Shared shared(dynamic, head.d);
  const int lane = threadIdx.x % WARP, d = head.d;
  const int key = min(start + int(threadIdx.x) / WARP, head.n - 1);
  const size_t step = 3 * size_t(head.channels);
  copy(shared.own, qkv + head.input(1) + key * step, d);
  copy(shared.other, qkv + head.input(2) + key * step, d);
  float of_key[MOST / WARP] = {}, of_value[MOST / WARP] = {};
  for (int tile = 0; tile < head.n; tile += WARP) {
    __syncthreads();
    fill(shared.first, qkv + head.input(0), tile, head.n, d, step);
    fill(shared.second, grad + head.output(), tile, head.n, d, head.channels);
    __syncthreads();
    const int query = tile + lane;
    const float score = dot(shared.own, shared.first, d) * head.scale, slope = dot(shared.other, shared.second, d);
    float weight = 0.f, change = 0.f;
    if (query < head.n) {
      weight = expf(score + bias.of(head, query, key) - lse[head.rows() + query]);
      change = weight * (slope - delta[head.rows() + query]);
    }
    add(of_value, weight, shared.second, d);
    add(of_key, change, shared.first, d);
  }
  if (start + int(threadIdx.x) / WARP >= head.n) return;
  write(gradient + head.input(1) + key * step, of_key, head.scale, d);
  write(gradient + head.input(2) + key * step, of_value, 1.f, d);
}

// delta [B, heads, N] = Σ grad·out over the channels of a head; a warp each.
template <typename T>
__device__ __forceinline__ void products(const T *grad, const T *out, float *delta, int count, int n, int d,
                                         int heads) {
  const int index = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (index >= count) return;
  const Head head(n, d, heads, 1.f, index / n);
  const size_t start = head.output() + size_t(index % n) * head.channels;
  float sum = 0.f;
  for (int i = threadIdx.x % WARP; i < d; i += WARP) sum += wide(grad[start + i]) * wide(out[start + i]);
  sum = warp_sum(sum);
  if (threadIdx.x % WARP == 0) delta[index] = sum;
}

extern "C" __global__ void attention_products_f32(const float *grad, const float *out, float *delta, int count, int n,
                                                  int d, int heads) {
  products(grad, out, delta, count, n, d, heads);
}
extern "C" __global__ void attention_products_bf16(const bf16 *grad, const bf16 *out, float *delta, int count, int n,
                                                   int d, int heads) {
  products(grad, out, delta, count, n, d, heads);
}

// Blocks run over the tiles of a head, then over heads, then over samples. NAME is the suffix, BLOCK the rows of one.
#define KERNELS(NAME, T, BLOCK, FORWARD, QUERIES, KEYS)                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
      attention_##NAME(const T *qkv, T *out, float *lse, int n, int d, int heads, float scale, const float *table,    \
                       const float *rows, const float *columns, int h, int w, int offsets) {                          \
    const int tiles = (n + BLOCK - 1) / BLOCK;                                                                        \
    const Head head(n, d, heads, scale, blockIdx.x / tiles);                                                          \
    const Bias bias = {table, rows, columns, nullptr, nullptr, nullptr, h, w, offsets};                               \
    FORWARD(qkv, out, lse, head, bias, blockIdx.x % tiles * BLOCK);                                                   \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_queries_##NAME(                                     \
      const T *qkv, const T *grad, const float *lse, const float *delta, T *gradient, int n, int d, int heads,        \
      float scale, const float *table, const float *rows, const float *columns, int h, int w, int offsets,            \
      float *of_table, float *of_rows, float *of_columns, int shared) {                                               \
    const int tiles = (n + BLOCK - 1) / BLOCK;                                                                        \
    const Head head(n, d, heads, scale, blockIdx.x / tiles);                                                          \
    const Bias bias = {table, rows, columns, of_table, of_rows, of_columns, h, w, offsets};                           \
    QUERIES(qkv, grad, lse, delta, gradient, head, bias, blockIdx.x % tiles * BLOCK, shared);                         \
  }                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_keys_##NAME(                                        \
      const T *qkv, const T *grad, const float *lse, const float *delta, T *gradient, int n, int d, int heads,        \
      float scale, const float *table, const float *rows, const float *columns, int h, int w, int offsets) {          \
    const int tiles = (n + BLOCK - 1) / BLOCK;                                                                        \
    const Head head(n, d, heads, scale, blockIdx.x / tiles);                                                          \
    const Bias bias = {table, rows, columns, nullptr, nullptr, nullptr, h, w, offsets};                               \
    KEYS(qkv, grad, lse, delta, gradient, head, bias, blockIdx.x % tiles * BLOCK);                                    \
  }

KERNELS(f32, float, WARPS, forward_f32, queries_gradient_f32, keys_gradient_f32)
KERNELS(16_bf16, bf16, ROWS, forward_bf16<16>, queries_gradient_bf16<16>, keys_gradient_bf16<16>)
KERNELS(32_bf16, bf16, ROWS, forward_bf16<32>, queries_gradient_bf16<32>, keys_gradient_bf16<32>)
KERNELS(64_bf16, bf16, ROWS, forward_bf16<64>, queries_gradient_bf16<64>, keys_gradient_bf16<64>)
KERNELS(80_bf16, bf16, ROWS, forward_bf16<80>, queries_gradient_bf16<80>, keys_gradient_bf16<80>)
KERNELS(128_bf16, bf16, ROWS, forward_bf16<128>, queries_gradient_bf16<128>, keys_gradient_bf16<128>)
