// libcurand.so.10: uniform numbers in (0, 1] and normal ones, from a Mersenne Twister on the host. Not cuRAND's sequence.
#include <cmath>
#include <cstddef>
#include <numbers>
#include <random>

namespace {

enum Status { success = 0, length_not_multiple = 105 };

struct Generator {
    std::mt19937_64 bits;
};

template <class T>
T uniform(Generator& generator) {
    return T((double(generator.bits() >> 11) + 1) * 0x1p-53);
}

template <class T>
Status fill_uniform(Generator& generator, T* to, size_t count) {
    for (size_t i = 0; i < count; ++i) to[i] = uniform<T>(generator);
    return success;
}

template <class T>
Status fill_normal(Generator& generator, T* to, size_t count, T mean, T deviation) {
    if (count % 2 != 0) return length_not_multiple;
    for (size_t i = 0; i < count; i += 2) {
        const double radius = std::sqrt(-2 * std::log(uniform<double>(generator)));
        const double angle = 2 * std::numbers::pi * uniform<double>(generator);
        to[i] = mean + deviation * T(radius * std::cos(angle));
        to[i + 1] = mean + deviation * T(radius * std::sin(angle));
    }
    return success;
}

} // namespace

#pragma GCC visibility push(default)
extern "C" {

Status curandCreateGenerator(Generator** generator, int) { return *generator = new Generator, success; }
Status curandDestroyGenerator(Generator* generator) { return delete generator, success; }
Status curandSetStream(Generator*, void*) { return success; }
Status curandSetPseudoRandomGeneratorSeed(Generator* generator, unsigned long long seed) {
    generator->bits.seed(seed);
    return success;
}
Status curandSetGeneratorOffset(Generator* generator, unsigned long long offset) {
    generator->bits.discard(offset);
    return success;
}
Status curandGenerateUniform(Generator* g, float* to, size_t count) { return fill_uniform(*g, to, count); }
Status curandGenerateUniformDouble(Generator* g, double* to, size_t count) { return fill_uniform(*g, to, count); }
Status curandGenerateNormal(Generator* g, float* to, size_t count, float mean, float deviation) {
    return fill_normal(*g, to, count, mean, deviation);
}
Status curandGenerateNormalDouble(Generator* g, double* to, size_t count, double mean, double deviation) {
    return fill_normal(*g, to, count, mean, deviation);
}

} // extern "C"
#pragma GCC visibility pop
