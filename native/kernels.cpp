#include "kernels.h"

#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(LLAMAHERD_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llamaherd {
namespace {

constexpr int kMost = 6;

struct Available {
    const Kernels* tables[kMost] = {};
    const char* names[kMost] = {};
    int n = 0;

    void add(const Kernels& table) {
        tables[n] = &table;
        names[n++] = table.isa;
    }
};

#if defined(__x86_64__)
// __builtin_cpu_supports does not know AVX-VNNI in every compiler.
bool has_avx_vnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}
#endif

#if defined(LLAMAHERD_AMX)
// The processor has it, the system saves its registers, and this process may use them, which has to
// be asked for.
bool has_amx() {
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3) return false;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved >> 17 & 3) != 3) return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return !syscall(SYS_arch_prctl, kRequestPermission, kTileData);
}
#endif

Available detect() {
    Available available;
#if defined(__x86_64__)
    // These check the system's part, too: whether it saves the wide registers.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
#if defined(LLAMAHERD_AMX)
    if (avx512 && has_amx()) available.add(amx_kernels());
#endif
    if (avx512) available.add(kAvx512Kernels);
    if (avx2 && has_avx_vnni()) available.add(kAvxVnniKernels);
    if (avx2) available.add(kAvx2Kernels);
#endif
    available.add(kReferenceKernels);
    return available;
}

const Available& available() {
    static const Available found = detect();
    return found;
}

}  // namespace

const char* const* available_isas() { return available().names; }

const Kernels& kernels_for(const char* isa) {
    if (!*isa) return *available().tables[0];
    std::string names;
    for (int i = 0; i < available().n; i++) {
        if (!std::strcmp(available().names[i], isa)) return *available().tables[i];
        names += (i ? ", " : "") + std::string(available().names[i]);
    }
    throw std::invalid_argument("there are no kernels for " + std::string(isa) +
                                " on this machine; it has " + names);
}

}  // namespace llamaherd
