// Kernels of the emulator's own test, right and wrong ones.

// ---- barriers, shuffles, votes, atomics ----

// Sum over a block of any size: shuffles in a warp, shared memory between warps; threads beyond `count` return early.
extern "C" __global__ void __launch_bounds__(512) check_block_sum(const float* x, float* sum, int count) {
    __shared__ float partial[32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = i < count ? x[i] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xFFFFFFFF, value, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFF, value, offset);
    if (threadIdx.x == 0) atomicAdd(sum, value);
}

// Per lane: idx, up, down and xor shuffles in groups of 8, the ballot of odd lanes, any, all, and a half-warp's shuffle.
extern "C" __global__ void check_lanes(int* out) {
    const int lane = threadIdx.x;
    int* const row = out + lane * 8;
    row[0] = __shfl_sync(0xFFFFFFFF, lane, 3, 8);
    row[1] = __shfl_up_sync(0xFFFFFFFF, lane, 2, 8);
    row[2] = __shfl_down_sync(0xFFFFFFFF, lane, 3, 8);
    row[3] = __shfl_xor_sync(0xFFFFFFFF, lane, 5, 8);
    row[4] = int(__ballot_sync(0xFFFFFFFF, lane % 2));
    row[5] = __any_sync(0xFFFFFFFF, lane == 7);
    row[6] = __all_sync(0xFFFFFFFF, lane < 31);
    row[7] = lane < 16 ? int(__shfl_sync(0x0000FFFF, (long long)(lane) << 33, 15) >> 33) : -1;
}

extern "C" __global__ void check_atomics(float* sum, __nv_bfloat16* narrow, int* most, unsigned* count) {
    atomicAdd(sum, 0.5f);
    if (threadIdx.x == 0) atomicAdd(narrow, __float2bfloat16_rn(1.0f));
    atomicMax(most, int(blockIdx.x * blockDim.x + threadIdx.x));
    atomicAdd(count, 1);
}

// ---- tensor cores ----

// C = A·B for row-major bf16 A [m, k], B [k, n]; one warp for 16×16 of C, loaded by asynchronous copies and ldmatrix.
// Rows are `pitch` elements apart in memory, a multiple of 8; what is beyond the edge counts as 0.
extern "C" __global__ void check_product(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k,
                                         int pitch) {
    extern __shared__ __align__(16) __nv_bfloat16 tiles[];
    __nv_bfloat16(*left)[16] = reinterpret_cast<__nv_bfloat16(*)[16]>(tiles);
    __nv_bfloat16(*right)[16] = left + 16;
    const int lane = threadIdx.x, row0 = blockIdx.y * 16, column0 = blockIdx.x * 16;
    const auto bytes = [](int left_in_row) { return unsigned(min(max(left_in_row, 0), 8)) * 2; };
    float sums[2][4] = {};
    for (int k0 = 0; k0 < k; k0 += 16) {
        const int row = lane / 2, part = lane % 2 * 8;
        emulator::cp_async16(&left[row][part], a + (row0 + row) * pitch + k0 + part,
                             row0 + row < m ? bytes(k - k0 - part) : 0);
        emulator::cp_async16(&right[row][part], b + (k0 + row) * pitch + column0 + part,
                             k0 + row < k ? bytes(n - column0 - part) : 0);
        emulator::cp_async_commit();
        emulator::cp_async_wait<0>();
        __syncwarp();
        uint32_t a_registers[4], b_registers[4];
        emulator::ldmatrix_x4(a_registers, &left[lane % 16][lane / 16 * 8]);
        emulator::ldmatrix_x4_trans(b_registers, &right[lane % 16][lane / 16 * 8]);
        emulator::mma_m16n8k16_bf16(sums[0], a_registers, {b_registers[0], b_registers[1]});
        emulator::mma_m16n8k16_bf16(sums[1], a_registers, {b_registers[2], b_registers[3]});
        __syncwarp();
    }
    for (int half = 0; half < 2; ++half)
        for (int r = 0; r < 4; ++r) {
            const int row = row0 + lane / 4 + r / 2 * 8, column = column0 + half * 8 + lane % 4 * 2 + r % 2;
            if (row < m && column < n) c[row * n + column] = sums[half][r];
        }
}

// ---- mistakes ----

// Each thread reads its neighbour's element; `synchronised` or not.
extern "C" __global__ void check_race(float* out, int synchronised) {
    __shared__ float shared[64];
    shared[threadIdx.x] = float(threadIdx.x);
    if (synchronised) __syncthreads();
    out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}

extern "C" __global__ void check_unfinished_copy(const float* from, float* to, int wait) {
    __shared__ __align__(16) float shared[4];
    emulator::cp_async16(shared, from);
    emulator::cp_async_commit();
    if (wait) emulator::cp_async_wait<0>();
    for (int i = 0; i < 4; ++i) to[i] = shared[i];
}

extern "C" __global__ void check_write_at(float* out, int index) { out[index] = 1.0f; }

extern __shared__ int values[];

extern "C" __global__ void check_shared_overflow(int elements) { values[elements] = 0; }

extern "C" __global__ void check_stuck() {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp();
}

extern "C" __global__ void check_fault(const int* nowhere, int* out) { *out = *nowhere; }

extern "C" __global__ void check_misaligned(const float* from, float* to) {
    *to = reinterpret_cast<const float4*>(from + 1)->x;
}

extern "C" __global__ void check_index(int index, int* out) {
    __shared__ int values[8];
    values[index] = 1;
    *out = values[index];
}
