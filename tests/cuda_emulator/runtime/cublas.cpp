// libcublas.so.13: matrix products in plain loops, in f32 (f64 for f64), over all processors.
#include "../shim/cuda_bf16.h"
#include "../shim/cuda_fp16.h"

#include <vector>

namespace {

enum Status { success = 0, not_initialized = 1, invalid_value = 7, not_supported = 15 };
enum Operation { plain = 0, transposed = 1, conjugated = 2 };
enum Type { f32 = 0, f64 = 1, f16 = 2, bf16 = 14 };

struct Handle {
    void* stream = nullptr;
    int math_mode = 0;
    int pointer_mode = 0;
};

/// A matrix of a batch, stored by columns.
template <class Pointer>
struct Matrix {
    Pointer start;
    Operation operation;
    long long leading, stride;
};

struct Shape {
    long long m, n, k, batch;
};

Status refuse(const char* reason) {
    fprintf(stderr, "CUDA emulator: cuBLAS product refused: %s\n", reason);
    return invalid_value;
}

/// Whether a stored matrix and its batch fit into the leading dimension and the allocation.
template <class T, class Pointer>
bool fits(const Matrix<Pointer>& matrix, long long rows, long long columns, long long batch) {
    if (matrix.operation != plain) std::swap(rows, columns);
    if (matrix.leading < std::max(1LL, rows)) return false;
    const long long elements = (batch - 1) * matrix.stride + (columns - 1) * matrix.leading + rows;
    return elements <= 0 || emulator::is_device_memory(matrix.start, size_t(elements) * sizeof(T));
}

constexpr long long tile_rows = 32, tile_columns = 4, panel_columns = 64;

/// One panel of columns of one matrix of the batch: C = alpha·op(A)·op(B) + beta·C.
template <class T, class C, class Accumulator>
void panel(const Shape& shape, Accumulator alpha, Accumulator beta, const T* a, bool a_transposed, long long lda,
           const T* b, bool b_transposed, long long ldb, C* c, long long ldc, long long first_column,
           std::vector<Accumulator>& rows, std::vector<Accumulator>& columns) {
    const long long width = std::min(panel_columns, shape.n - first_column);
    columns.assign(size_t(shape.k * panel_columns), 0); // [column tile][k][tile_columns]
    for (long long j = 0; j < width; ++j)
        for (long long p = 0; p < shape.k; ++p) {
            const long long column = first_column + j;
            const T value = b_transposed ? b[column + p * ldb] : b[p + column * ldb];
            columns[size_t((j / tile_columns * shape.k + p) * tile_columns + j % tile_columns)] = Accumulator(value);
        }
    rows.resize(size_t(shape.k * tile_rows)); // [k][tile_rows]
    for (long long i0 = 0; i0 < shape.m; i0 += tile_rows) {
        const long long height = std::min(tile_rows, shape.m - i0);
        for (long long p = 0; p < shape.k; ++p)
            for (long long i = 0; i < tile_rows; ++i) {
                const T* const value = a_transposed ? a + p + (i0 + i) * lda : a + i0 + i + p * lda;
                rows[size_t(p * tile_rows + i)] = i < height ? Accumulator(*value) : Accumulator(0);
            }
        for (long long j0 = 0; j0 < width; j0 += tile_columns) {
            Accumulator sum[tile_columns][tile_rows] = {};
            const Accumulator* left = rows.data();
            const Accumulator* right = &columns[size_t(j0 * shape.k)];
            for (long long p = 0; p < shape.k; ++p, left += tile_rows, right += tile_columns)
                for (long long j = 0; j < tile_columns; ++j)
                    for (long long i = 0; i < tile_rows; ++i) sum[j][i] += left[i] * right[j];
            for (long long j = j0; j < std::min(j0 + tile_columns, width); ++j)
                for (long long i = 0; i < height; ++i) {
                    C& to = c[i0 + i + (first_column + j) * ldc];
                    const Accumulator product = alpha * sum[j - j0][i];
                    to = C(beta == 0 ? product : product + beta * Accumulator(to)); // beta 0 does not read C
                }
        }
    }
}

template <class T, class C, class Accumulator>
Status multiply(const Shape& shape, Accumulator alpha, Accumulator beta, const Matrix<const void*>& a,
                const Matrix<const void*>& b, const Matrix<void*>& c) {
    if (shape.m < 0 || shape.n < 0 || shape.k < 0 || shape.batch < 0) return refuse("a dimension is negative");
    if (shape.m == 0 || shape.n == 0 || shape.batch == 0) return success;
    if (!fits<T>(a, shape.m, shape.k, shape.batch)) return refuse("A leaves its leading dimension or allocation");
    if (!fits<T>(b, shape.k, shape.n, shape.batch)) return refuse("B leaves its leading dimension or allocation");
    if (!fits<C>(c, shape.m, shape.n, shape.batch)) return refuse("C leaves its leading dimension or allocation");
    const long long panels = (shape.n + panel_columns - 1) / panel_columns;
    emulator::parallel(size_t(panels * shape.batch), [&](size_t part) {
        static thread_local std::vector<Accumulator> rows, columns;
        const auto matrix = static_cast<long long>(part) / panels, number = static_cast<long long>(part) % panels;
        panel(shape, alpha, beta, static_cast<const T*>(a.start) + matrix * a.stride, a.operation != plain, a.leading,
              static_cast<const T*>(b.start) + matrix * b.stride, b.operation != plain, b.leading,
              static_cast<C*>(c.start) + matrix * c.stride, c.leading, number * panel_columns, rows, columns);
    });
    return success;
}

/// Alpha and beta have the compute type: f16 for 64 and 65, f64 for 70 and 71, f32 for all others.
template <class Accumulator>
Accumulator scalar(const void* address, int compute_type) {
    if (compute_type == 64 || compute_type == 65) return Accumulator(*static_cast<const __half*>(address));
    if (compute_type == 70 || compute_type == 71) return Accumulator(*static_cast<const double*>(address));
    return Accumulator(*static_cast<const float*>(address));
}

Status multiply_typed(Type type, Type type_c, int compute_type, const Shape& shape, const void* alpha, const void* beta,
                      const Matrix<const void*>& a, const Matrix<const void*>& b, const Matrix<void*>& c) {
    const auto with = [&]<class T, class C, class Accumulator>(T, C, Accumulator) {
        return multiply<T, C>(shape, scalar<Accumulator>(alpha, compute_type), scalar<Accumulator>(beta, compute_type), a, b, c);
    };
    const auto types = [](Type first, Type second) { return first << 8 | second; };
    const int both = types(type, type_c);
    if (both == types(f32, f32)) return with(float(), float(), float());
    if (both == types(f64, f64)) return with(double(), double(), double());
    if (both == types(f16, f16)) return with(__half(), __half(), float());
    if (both == types(f16, f32)) return with(__half(), float(), float());
    if (both == types(bf16, bf16)) return with(__nv_bfloat16(), __nv_bfloat16(), float());
    if (both == types(bf16, f32)) return with(__nv_bfloat16(), float(), float());
    return not_supported;
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

Status cublasCreate_v2(Handle** handle) { return *handle = new Handle, success; }
Status cublasDestroy_v2(Handle* handle) { return delete handle, success; }
Status cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, success; }
Status cublasGetStream_v2(Handle* handle, void** stream) { return *stream = handle->stream, success; }
Status cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, success; }
Status cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, success; }
Status cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->pointer_mode = mode, success; }
Status cublasGetPointerMode_v2(Handle* handle, int* mode) { return *mode = handle->pointer_mode, success; }
Status cublasSetWorkspace_v2(Handle*, void*, size_t) { return success; }

Status cublasGemmStridedBatchedEx(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const void* alpha,
                                  const void* a, Type type_a, int lda, long long stride_a, const void* b, Type type_b, int ldb,
                                  long long stride_b, const void* beta, void* c, Type type_c, int ldc, long long stride_c,
                                  int batch, int compute_type, int) {
    if (!handle) return not_initialized;
    if (type_a != type_b) return refuse("A and B are of different types");
    return multiply_typed(type_a, type_c, compute_type, {m, n, k, batch}, alpha, beta, {a, ta, lda, stride_a},
                          {b, tb, ldb, stride_b}, {c, plain, ldc, stride_c});
}
Status cublasGemmEx(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const void* alpha, const void* a,
                    Type type_a, int lda, const void* b, Type type_b, int ldb, const void* beta, void* c, Type type_c, int ldc,
                    int compute_type, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c,
                                      ldc, 0, 1, compute_type, algorithm);
}
Status cublasSgemmStridedBatched(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const float* alpha,
                                 const float* a, int lda, long long stride_a, const float* b, int ldb, long long stride_b,
                                 const float* beta, float* c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, f32, lda, stride_a, b, f32, ldb, stride_b, beta, c,
                                      f32, ldc, stride_c, batch, 68, -1);
}
Status cublasDgemmStridedBatched(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const double* alpha,
                                 const double* a, int lda, long long stride_a, const double* b, int ldb, long long stride_b,
                                 const double* beta, double* c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, f64, lda, stride_a, b, f64, ldb, stride_b, beta, c,
                                      f64, ldc, stride_c, batch, 70, -1);
}
Status cublasSgemm_v2(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const float* alpha, const float* a,
                      int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
    return cublasSgemmStridedBatched(handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
Status cublasDgemm_v2(Handle* handle, Operation ta, Operation tb, int m, int n, int k, const double* alpha, const double* a,
                      int lda, const double* b, int ldb, const double* beta, double* c, int ldc) {
    return cublasDgemmStridedBatched(handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}

} // extern "C"
#pragma GCC visibility pop
