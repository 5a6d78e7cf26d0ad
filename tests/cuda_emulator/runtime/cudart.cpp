// libcudart.so.13: what host code compiled by nvcc calls before main. Its kernels, candle's quantised ones, are not here.
namespace {
int fat_binary;
}

#pragma GCC visibility push(default)
extern "C" {

void* __cudaRegisterFatBinary(void*) { return &fat_binary; }
void __cudaRegisterFatBinaryEnd(void*) {}
void __cudaUnregisterFatBinary(void*) {}
void __cudaRegisterFunction(void*, const char*, char*, const char*, int, void*, void*, void*, void*, int*) {}
void __cudaRegisterVar(void*, char*, char*, const char*, int, unsigned long, int, int) {}
char __cudaInitModule(void*) { return 1; }

} // extern "C"
#pragma GCC visibility pop
