// AVX-512 with VNNI: Ice Lake, Zen 4 and newer.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace llamaherd {
namespace {

constexpr int kLanes = 16;

typedef int __attribute__((may_alias)) aliased_int;

// Sums of integers begin at the bits of 1.5 * 2^23. As a float the result is that number plus the
// sum, exactly, since it stays below 2^22; and a subtraction, unlike a conversion, does not take
// the multipliers' time.
constexpr int kExactStart = 0x4b400000;
constexpr float kExactStartFloat = 12582912.0f;

// f(0), f(1) ... f(N-1) with constant arguments, so that small arrays live in registers. GCC does
// not always unroll a loop completely, even when told to.
template <int N, typename Function>
ALWAYS_INLINE void repeat(Function&& function) {
    [&]<int... I>(std::integer_sequence<int, I...>) INLINE_LAMBDA {
        (function(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// GCC does not fold a broadcast from memory into the instruction, which costs a third of the speed.
ALWAYS_INLINE __m512i dot_bytes(__m512i sum, __m512i weights, const uint8_t* four) {
    asm("vpdpbusd %2%{1to16%}, %1, %0"
        : "+v"(sum)
        : "v"(weights), "m"(*reinterpret_cast<const aliased_int*>(four)));
    return sum;
}

ALWAYS_INLINE __m512i dot_shorts(__m512i sum, __m512i vector, __m512i pairs) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(vector), "v"(pairs));
    return sum;
}

#define prefetch(at, hint) _mm_prefetch(reinterpret_cast<const char*>(at), hint)

// e^x to about 1e-7; exactly 0 below -87 (and for -infinity).
ALWAYS_INLINE __m512 exponential(__m512 x) {
    const __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_maskz_mov_ps(_mm512_knot(tiny), _mm512_scalef_ps(p, n));
}

// 2^x to about 2e-7 for x <= 0; exactly 0 for numbers like kMasked.
ALWAYS_INLINE __m512 power_of_two(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(x, 8);
    const __m512 r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(1.33390360e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.61834299e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.55033284e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.93147182e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// ── activations ────────────────────────────────────────────────────────────────────────────

ALWAYS_INLINE int sum_of_lanes(__m128i sums) {
    const __m128i pairs = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
}

ALWAYS_INLINE void encode_group(const ActivationFormat& format, const float* x, float scale,
                                float inverse, uint8_t* tile, int row) {
    const __m512 factor = _mm512_set1_ps(inverse);
    const auto to_bytes = [&](const float* at) {
        return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(at), factor)));
    };
    const __m128i q0 = to_bytes(x), q1 = to_bytes(x + 16);
    _mm_store_si128(reinterpret_cast<__m128i*>(tile + row * kGroup), q0);
    _mm_store_si128(reinterpret_cast<__m128i*>(tile + row * kGroup + 16), q1);
    float* scales = reinterpret_cast<float*>(tile + kTileRows * kGroup);
    scales[row] = scale;
    const __m128i ones = _mm_set1_epi8(1);
    __m128i halves[2] = {_mm_dpbusd_epi32(_mm_setzero_si128(), ones, q0),
                         _mm_dpbusd_epi32(_mm_setzero_si128(), ones, q1)};
    if (format.halves == 1) halves[0] = _mm_add_epi32(halves[0], halves[1]);
    for (int h = 0; h < format.halves; h++) {
        const int sum = sum_of_lanes(halves[h]);
        const int start = kExactStart - format.zero_point * sum;
        float* extras = scales + kTileRows * (1 + h);
        if (format.has_min) extras[row] = scale * float(sum);
        else std::memcpy(extras + row, &start, 4);
    }
}

void encode_quantized(const ActivationFormat& format, const float* x, int n_inputs, uint8_t* tile,
                      int row) {
    // Sixteen groups at a time, so that one division serves them all.
    for (int begin = 0; begin < n_inputs; begin += kLanes * kGroup) {
        const int left = (n_inputs - begin) / kGroup, n_groups = left < kLanes ? left : kLanes;
        alignas(64) float largest[kLanes] = {}, scales[kLanes], inverses[kLanes];
        for (int g = 0; g < n_groups; g++) {
            const float* at = x + begin + g * kGroup;
            const __m512 x0 = _mm512_loadu_ps(at), x1 = _mm512_loadu_ps(at + 16);
            largest[g] = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
        }
        const __m512 most = _mm512_load_ps(largest), limit = _mm512_set1_ps(127.0f);
        const __mmask16 positive = _mm512_cmp_ps_mask(most, _mm512_setzero_ps(), _CMP_GT_OQ);
        _mm512_store_ps(inverses, _mm512_maskz_div_ps(positive, limit, most));
        _mm512_store_ps(scales, _mm512_mul_ps(most, _mm512_set1_ps(1.0f / 127.0f)));
        for (int g = 0; g < n_groups; g++, tile += ActivationFormat::kGroupBytes) {
            encode_group(format, x + begin + g * kGroup, scales[g], inverses[g], tile, row);
        }
    }
}

void encode(const ActivationFormat& format, const float* x, int n_inputs, uint8_t* tile, int row) {
    if (format.is_float) {
        std::memcpy(reinterpret_cast<float*>(tile) + size_t(row) * n_inputs, x, n_inputs * 4);
    } else {
        encode_quantized(format, x, n_inputs, tile, row);
    }
}

// ── matrix products ────────────────────────────────────────────────────────────────────────

// The eight vectors of a group: vector j holds values 4j .. 4j+3 of 16 outputs.
template <int BITS>
ALWAYS_INLINE void unpack(const uint8_t* group, __m512i (&out)[8]) {
    if constexpr (BITS == 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) out[j] = _mm512_load_si512(group + j * 64);
    } else {
        const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const __m512i both = _mm512_load_si512(group + t * 64);
            out[t] = _mm512_and_si512(both, low);
            out[t + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
#pragma GCC unroll 2
        for (int bit = 4; bit < BITS; bit++) {
            const __m512i value = _mm512_set1_epi8(char(1 << bit));
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                uint64_t word;
                std::memcpy(&word, group + 256 + (bit - 4) * 64 + j * 8, 8);
                out[j] = _mm512_mask_or_epi32(out[j], 0xffff, out[j],
                                              _mm512_maskz_mov_epi8(_cvtu64_mask64(word), value));
            }
        }
    }
}

// One half of a group (or all of it) for four rows: dot products, then into the float sums.
template <int ROWS, int FIRST, int LAST, bool MIN>
ALWAYS_INLINE void add_rows(const __m512i (&weights)[8], __m512 scale, __m512 min,
                            const uint8_t* bytes, const float* scales, const float* extras,
                            __m512* sums) {
    __m512i dots[ROWS];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) {
        int start = kExactStart;
        if constexpr (!MIN) std::memcpy(&start, extras + i, 4);
        dots[i] = _mm512_set1_epi32(start);
    }
#pragma GCC unroll 8
    for (int j = FIRST; j < LAST; j++) {
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            dots[i] = dot_bytes(dots[i], weights[j], bytes + i * kGroup + j * 4);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) {
        const __m512 dot =
            _mm512_sub_ps(_mm512_castsi512_ps(dots[i]), _mm512_set1_ps(kExactStartFloat));
        const __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(scales[i]));
        sums[i] = _mm512_fmadd_ps(dot, scaled, sums[i]);
        if constexpr (MIN) sums[i] = _mm512_fmadd_ps(min, _mm512_set1_ps(extras[i]), sums[i]);
    }
}

template <int ROWS, int FIRST, int LAST, bool MIN>
ALWAYS_INLINE void add_group(const __m512i (&weights)[8], const uint8_t* scale_at,
                             const uint8_t* min_at, const uint8_t* tile, int half, __m512* sums) {
    const auto load = [](const uint8_t* at) {
        return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
    };
    const __m512 scale = load(scale_at);
    const __m512 min = MIN ? load(min_at) : _mm512_setzero_ps();
    const float* scales = reinterpret_cast<const float*>(tile + kTileRows * kGroup);
    const float* extras = scales + kTileRows * (1 + half);
    constexpr int kStep = ROWS < 4 ? ROWS : (ROWS % 4 ? 2 : 4);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r += kStep) {
        add_rows<kStep, FIRST, LAST, MIN>(weights, scale, min, tile + r * kGroup, scales + r,
                                          extras + r, sums + r);
    }
}

template <int ROWS, Coding CODING>
void multiply_quantized(const uint8_t* panel, const uint8_t* tile, int n_superblocks, float* out) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr size_t kValues = size_t(kFormat.bits) * 64;
    constexpr size_t kScales = size_t(kFormat.halves) * 32;
    constexpr size_t kSize = 2 * (kValues + kScales * (kFormat.has_min ? 2 : 1));
    // Far enough ahead for the memory, near enough to stay in the first-level cache.
    constexpr size_t kAhead = 2304;
    __m512 sums[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) sums[i] = _mm512_setzero_ps();
    for (int s = 0; s < n_superblocks; s++, panel += kSize) {
#pragma GCC unroll 1
        for (int odd = 0; odd < 2; odd++, tile += ActivationFormat::kGroupBytes) {
            __m512i weights[8];
#pragma GCC unroll 16
            for (size_t i = 0; i < kSize / 2; i += 64) {
                prefetch(panel + kAhead + odd * kSize / 2 + i, _MM_HINT_T0);
            }
            unpack<kFormat.bits>(panel + odd * kValues, weights);
            const uint8_t* scales = panel + 2 * kValues + odd * kScales;
            const uint8_t* mins = scales + 2 * kScales;
            constexpr bool kMin = kFormat.has_min;
            if constexpr (kFormat.halves == 1) {
                add_group<ROWS, 0, 8, kMin>(weights, scales, mins, tile, 0, sums);
            } else {
                add_group<ROWS, 0, 4, kMin>(weights, scales, mins, tile, 0, sums);
                add_group<ROWS, 4, 8, kMin>(weights, scales + 32, mins + 32, tile, 1, sums);
            }
        }
    }
    const __m512 unbias = _mm512_set1_ps(1.0f / kScaleBias);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
        _mm512_storeu_ps(out + i * kPanel, _mm512_mul_ps(sums[i], unbias));
    }
}

template <Coding CODING>
ALWAYS_INLINE __m512 load_weights(const uint8_t* panel, size_t k) {
    if constexpr (CODING == Coding::kFloat32) return _mm512_loadu_ps(panel + k * 64);
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + k * 32));
    if constexpr (CODING == Coding::kFloat16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

template <int ROWS, Coding CODING>
void multiply_floats(const uint8_t* panel, const uint8_t* tile, int n_superblocks, float* out) {
    const size_t n_inputs = size_t(n_superblocks) * kSuperblock;
    const float* x = reinterpret_cast<const float*>(tile);
    __m512 sums[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) sums[i] = _mm512_setzero_ps();
    for (size_t k = 0; k < n_inputs; k++) {
        const __m512 weights = load_weights<CODING>(panel, k);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) {
            sums[i] = _mm512_fmadd_ps(weights, _mm512_set1_ps(x[i * n_inputs + k]), sums[i]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) _mm512_storeu_ps(out + i * kPanel, sums[i]);
}

template <int ROWS, Coding CODING>
void multiply_tile(const uint8_t* panel, const uint8_t* tile, int n_superblocks, float* out) {
    if constexpr (kFormats[int(CODING)].bits >= 16) {
        multiply_floats<ROWS, CODING>(panel, tile, n_superblocks, out);
    } else {
        multiply_quantized<ROWS, CODING>(panel, tile, n_superblocks, out);
    }
}

template <Coding CODING>
void multiply_rows(const uint8_t* panel, const uint8_t* tile, int n_superblocks, int n_rows,
                   float* out) {
    // Rows between these sizes ride along: their sums are computed and not used.
    if (n_rows == 1) multiply_tile<1, CODING>(panel, tile, n_superblocks, out);
    else if (n_rows == 2) multiply_tile<2, CODING>(panel, tile, n_superblocks, out);
    else if (n_rows <= 4) multiply_tile<4, CODING>(panel, tile, n_superblocks, out);
    else if (n_rows <= 6) multiply_tile<6, CODING>(panel, tile, n_superblocks, out);
    else if (n_rows <= 8) multiply_tile<8, CODING>(panel, tile, n_superblocks, out);
    else if (n_rows <= 12) multiply_tile<12, CODING>(panel, tile, n_superblocks, out);
    else multiply_tile<16, CODING>(panel, tile, n_superblocks, out);
}

void multiply(Coding coding, const uint8_t* panel, const uint8_t* tile, int n_superblocks,
              int n_rows, float* out) {
    using Function = void (*)(const uint8_t*, const uint8_t*, int, int, float*);
    static constexpr Function kTable[kCodings] = {
        multiply_rows<Coding::kZero4>,    multiply_rows<Coding::kMin4>,
        multiply_rows<Coding::kZero5>,    multiply_rows<Coding::kMin5>,
        multiply_rows<Coding::kZero8>,    multiply_rows<Coding::kHalf6>,
        multiply_rows<Coding::kHalf4>,    multiply_rows<Coding::kHalfMin4>,
        multiply_rows<Coding::kFloat16>,  multiply_rows<Coding::kBfloat16>,
        multiply_rows<Coding::kFloat32>,
    };
    kTable[int(coding)](panel, tile, n_superblocks, n_rows, out);
}

// ── rows ───────────────────────────────────────────────────────────────────────────────────

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
    __m512 squares = _mm512_setzero_ps();
    for (int i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_loadu_ps(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / float(n);
    const __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + eps));
    for (int i = 0; i < n; i += kLanes) {
        const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(x + i), factor);
        _mm512_storeu_ps(out + i, _mm512_mul_ps(scaled, _mm512_loadu_ps(weight + i)));
    }
}

void layer_norm(const float* x, const float* weight, const float* bias, int n, float eps,
                float* out) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int i = 0; i < n; i += kLanes) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / float(n));
    for (int i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / float(n);
    const __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance + eps));
    for (int i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), factor);
        const __m512 w = _mm512_loadu_ps(weight + i), b = _mm512_loadu_ps(bias + i);
        _mm512_storeu_ps(out + i, _mm512_fmadd_ps(v, w, b));
    }
}

void add(float* x, const float* y, int n) {
    for (int i = 0; i < n; i += kLanes) {
        _mm512_storeu_ps(x + i, _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i)));
    }
}

void rotate(float* head, const float* cosines, const float* sines, int n_pairs) {
    for (int i = 0; i < n_pairs; i += kLanes) {
        const __mmask16 mask = n_pairs - i >= kLanes ? 0xffff : __mmask16((1 << (n_pairs - i)) - 1);
        const __m512 a = _mm512_maskz_loadu_ps(mask, head + i);
        const __m512 b = _mm512_maskz_loadu_ps(mask, head + n_pairs + i);
        const __m512 c = _mm512_maskz_loadu_ps(mask, cosines + i);
        const __m512 s = _mm512_maskz_loadu_ps(mask, sines + i);
        _mm512_mask_storeu_ps(head + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(head + n_pairs + i, mask, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
    }
}

void gate(Gate kind, const float* g, const float* u, int n, float* out) {
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < n; i += kLanes) {
        const __m512 x = _mm512_loadu_ps(g + i);
        __m512 z = x;
        if (kind == Gate::kGelu) {
            // 0.5 (1 + tanh y) = 1 / (1 + e^(-2y))
            const __m512 cubic =
                _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), one);
            z = _mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(1.5957691216f));
        }
        const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), z));
        const __m512 y = _mm512_div_ps(x, _mm512_add_ps(one, e));
        _mm512_storeu_ps(out + i, _mm512_mul_ps(y, _mm512_loadu_ps(u + i)));
    }
}

float quantize(const float* x, int n, float length, int16_t* out) {
    __m512 squares = _mm512_setzero_ps(), largest = _mm512_setzero_ps();
    for (int i = 0; i < n; i += kLanes) {
        const __m512 v = _mm512_loadu_ps(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
    }
    const float by_length = __builtin_sqrtf(_mm512_reduce_add_ps(squares)) / length;
    const float by_value = _mm512_reduce_max_ps(largest) / kInt16Max;
    const float scale = by_length > by_value ? by_length : by_value;
    const __m512 inverse = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
    for (int i = 0; i < n; i += kLanes) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm512_cvtsepi32_epi16(rounded));
    }
    return scale;
}

// ── attention ──────────────────────────────────────────────────────────────────────────────

// A score far below any other, even when it is multiplied by the least factor.
constexpr float kMasked = -1e30f, kLeastFactor = 1e-20f;
constexpr float kLog2E = 1.4426950408889634f;

ALWAYS_INLINE __m512 visible(const AttentionTile& tile, int row, int first_key, __m512 scores) {
    const __m512i keys = _mm512_add_epi32(
        _mm512_set1_epi32(first_key),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    const __mmask16 mask =
        _mm512_cmplt_epi32_mask(keys, _mm512_set1_epi32(tile.n_keys[row])) &
        _mm512_cmpge_epi32_mask(keys, _mm512_set1_epi32(tile.first_key[row]));
    return _mm512_mask_mov_ps(_mm512_set1_ps(kMasked), mask, scores);
}

// cap tanh(x / cap), by way of e^(2x / cap)
ALWAYS_INLINE __m512 soft_capped(__m512 x, float cap) {
    const __m512 one = _mm512_set1_ps(1.0f), limit = _mm512_set1_ps(cap);
    const __m512 e = exponential(_mm512_mul_ps(x, _mm512_set1_ps(2.0f / cap)));
    return _mm512_mul_ps(limit, _mm512_div_ps(_mm512_sub_ps(e, one), _mm512_add_ps(e, one)));
}

// Dot products of all rows with the 32 keys of a block: sums[0] for the first 16, sums[1] for the
// others.
template <int ROWS, bool PREFETCHES>
ALWAYS_INLINE void dot_keys(const uint8_t* block, const uint8_t* next_block, int head_dim,
                            const int32_t (*queries)[ROWS], __m512i (&sums)[2][ROWS]) {
    repeat<ROWS>([&](auto i) INLINE_LAMBDA { sums[0][i] = sums[1][i] = _mm512_setzero_si512(); });
    const uint8_t* values = block + KvHeadBlock::values_at(head_dim);
    for (int d = 0; d < head_dim / 2; d++) {
        // Blocks lie far apart: the processor does not foresee the next one by itself.
        for (int line = 0; PREFETCHES && line < 128; line += 64) {
            prefetch(next_block + d * 128 + line, _MM_HINT_T0);
            prefetch(values + d * 128 + line, _MM_HINT_T1);
        }
        const __m512i k0 = _mm512_loadu_si512(block + d * 128);
        const __m512i k1 = _mm512_loadu_si512(block + d * 128 + 64);
        repeat<ROWS>([&](auto i) INLINE_LAMBDA {
            const __m512i query = _mm512_set1_epi32(queries[d][i]);
            sums[0][i] = dot_shorts(sums[0][i], k0, query);
            sums[1][i] = dot_shorts(sums[1][i], k1, query);
        });
    }
}

// Rows of a tile whose sums fit in the registers.
constexpr int kGroupRows = 12;
// Blocks between two looks at a row's largest score. Spans begin at multiples of it, so that a row
// alone is cut into the same spans as in company.
constexpr int kSpanBlocks = 8;
constexpr int kSpanKeys = kSpanBlocks * kKvBlock;
// Blocks whose values are added up as integers.
constexpr int kPieceBlocks = 2;
constexpr int kPieceKeys = kPieceBlocks * kKvBlock;
constexpr int kPieceVectors = kPieceKeys / kLanes;

// A few rows on their way through the keys.
struct RowGroup {
    int first_row, n_rows;
    int first_block, last_block;    // blocks [first, last) that any row sees
    int n_keys;                     // most keys that any row sees
    int first_common, last_common;  // keys [first, last) that all rows see
    float factor[kGroupRows];       // turns scores into powers of two
    float top[kGroupRows];          // largest power so far
    bool has_seen[kGroupRows];      // whether there was any key to see
    __m512 totals[kGroupRows];      // sums of the weights, by lane
    float* sums;                    // [n_rows][head_dim]: weighted values so far
    int32_t* queries;               // [head_dim / 2][n_rows]: pairs
};

// Scores of the keys of some blocks, in units of the row's factor, and each row's largest.
template <int ROWS>
ALWAYS_INLINE void score_keys(const AttentionTile& tile, const RowGroup& group, int first_block,
                              int last_block, float (*scores)[kSpanKeys], __m512* largest) {
    const auto* queries = reinterpret_cast<const int32_t(*)[ROWS]>(group.queries);
    repeat<ROWS>([&](auto i) INLINE_LAMBDA { largest[i] = _mm512_set1_ps(kMasked); });
    for (int b = first_block; b < last_block; b++) {
        const bool is_last = b + 1 == group.last_block;
        const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[b];
        // After the last block comes the next head's first one.
        const uint8_t* next_block =
            tile.cache + tile.block_stride * tile.blocks[is_last ? group.first_block : b + 1] +
            (is_last ? KvHeadBlock::n_bytes(tile.head_dim) : 0);
        __m512i dots[2][ROWS];
        if (group.first_row == 0) {
            dot_keys<ROWS, true>(block, next_block, tile.head_dim, queries, dots);
        } else {
            dot_keys<ROWS, false>(block, next_block, tile.head_dim, queries, dots);
        }
        const bool is_whole =
            b * kKvBlock >= group.first_common && (b + 1) * kKvBlock <= group.last_common;
        const uint8_t* scales = block + KvHeadBlock::key_scales_at(tile.head_dim);
        const auto finish = [&](int i, int half, __m512i sums) INLINE_LAMBDA {
            const int row = group.first_row + i;
            const __m512 key_scales = _mm512_loadu_ps(scales + half * 64);
            __m512 score = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), key_scales);
            if (tile.softcap > 0) {
                score = _mm512_mul_ps(score, _mm512_set1_ps(tile.query_scales[row]));
                score = soft_capped(score, tile.softcap);
            }
            if (!is_whole) score = visible(tile, row, b * kKvBlock + half * 16, score);
            largest[i] = _mm512_max_ps(largest[i], score);
            _mm512_store_ps(scores[i] + (b - first_block) * kKvBlock + half * 16, score);
        };
        repeat<ROWS>([&](auto i) INLINE_LAMBDA {
            finish(i, 0, dots[0][i]);
            finish(i, 1, dots[1][i]);
        });
    }
}

// Sums of the lanes of eight vectors.
ALWAYS_INLINE __m256 sums_of_lanes(const __m512* v) {
    __m256 halves[8];
    repeat<8>([&](auto i) INLINE_LAMBDA {
        halves[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
    });
    const auto four = [&](int i) INLINE_LAMBDA {
        const __m256 low = _mm256_hadd_ps(halves[i], halves[i + 1]);
        return _mm256_hadd_ps(low, _mm256_hadd_ps(halves[i + 2], halves[i + 3]));
    };
    const __m256 first = four(0), last = four(4);
    const __m256 low = _mm256_permute2f128_ps(first, last, 0x20);
    return _mm256_add_ps(low, _mm256_permute2f128_ps(first, last, 0x31));
}

// Rows, rounded up to eights.
template <int ROWS>
constexpr int kPaddedRows = (ROWS + 7) / 8 * 8;

// Weights of a piece's values as int16, so that a row's sum is at most 2^15, and their scales.
template <int ROWS>
ALWAYS_INLINE void weigh(RowGroup& group, const float (*scores)[kSpanKeys], int at,
                         const uint8_t* const* value_scales, int16_t (*weights)[kPieceKeys],
                         float* scales) {
    // Scales of places that no token has taken yet are zero or finite leftovers.
    __m512 u[ROWS][kPieceVectors], all[kPaddedRows<ROWS>];
    repeat<kPaddedRows<ROWS>>([&](auto i) INLINE_LAMBDA { all[i] = _mm512_setzero_ps(); });
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        const __m512 factor = _mm512_set1_ps(group.factor[i]), top = _mm512_set1_ps(group.top[i]);
        repeat<kPieceVectors>([&](auto v) INLINE_LAMBDA {
            const __m512 score = _mm512_load_ps(scores[i] + at + v * 16);
            const __m512 e = power_of_two(_mm512_fmsub_ps(score, factor, top));
            group.totals[i] = _mm512_add_ps(group.totals[i], e);
            u[i][v] = _mm512_mul_ps(e, _mm512_loadu_ps(value_scales[v / 2] + v % 2 * 64));
            all[i] = _mm512_add_ps(all[i], u[i][v]);
        });
    });
    alignas(32) float inverses[kPaddedRows<ROWS>];
    for (int i = 0; i < kPaddedRows<ROWS>; i += 8) {
        const __m256 sums = sums_of_lanes(all + i), most = _mm256_set1_ps(kInt16Max);
        const __m256 positive = _mm256_cmp_ps(sums, _mm256_setzero_ps(), _CMP_GT_OQ);
        _mm256_store_ps(inverses + i, _mm256_and_ps(positive, _mm256_div_ps(most, sums)));
        _mm256_store_ps(scales + i, _mm256_mul_ps(sums, _mm256_set1_ps(1.0f / kInt16Max)));
    }
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        const __m512 inverse = _mm512_set1_ps(inverses[i]);
        auto* out = reinterpret_cast<__m256i*>(weights[i]);
        repeat<kPieceVectors>([&](auto v) INLINE_LAMBDA {
            const __m512i w = _mm512_cvtps_epi32(_mm512_mul_ps(u[i][v], inverse));
            _mm256_store_si256(out + v, _mm512_cvtsepi32_epi16(w));
        });
    });
}

// sums[row] += scale * weights x values, for 32 dimensions from `at`, or for 16 if not `IS_WIDE`.
template <int ROWS, bool IS_WIDE>
ALWAYS_INLINE void add_values(const uint8_t* const* values, int head_dim, int at, int n_pairs,
                              const int16_t (*weights)[kPieceKeys], const float* scales,
                              float* sums) {
    __m512i low[ROWS], high[ROWS];
    repeat<ROWS>([&](auto i) INLINE_LAMBDA { low[i] = high[i] = _mm512_setzero_si512(); });
    for (int first = 0, b = 0; first < n_pairs; first += kKvBlock / 2, b++) {
        const int n = n_pairs - first < kKvBlock / 2 ? n_pairs - first : kKvBlock / 2;
        for (int p = 0; p < n; p++) {
            const uint8_t* pair = values[b] + (size_t(p) * head_dim + at) * 4;
            const __m512i v0 = _mm512_loadu_si512(pair);
            const __m512i v1 = IS_WIDE ? _mm512_loadu_si512(pair + 64) : v0;
            repeat<ROWS>([&](auto i) INLINE_LAMBDA {
                const auto* pairs = reinterpret_cast<const aliased_int*>(weights[i]);
                const __m512i weight = _mm512_set1_epi32(pairs[first + p]);
                low[i] = dot_shorts(low[i], v0, weight);
                if constexpr (IS_WIDE) high[i] = dot_shorts(high[i], v1, weight);
            });
        }
    }
    const auto finish = [&](int row, float* sum, __m512i dots) INLINE_LAMBDA {
        const __m512 scale = _mm512_set1_ps(scales[row]);
        _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, _mm512_load_ps(sum)));
    };
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        finish(i, sums + i * head_dim + at, low[i]);
        if constexpr (IS_WIDE) finish(i, sums + i * head_dim + at + 16, high[i]);
    });
}

// Raises a row's largest score; what was gathered under the old one becomes smaller.
template <int ROWS>
ALWAYS_INLINE void raise_tops(RowGroup& group, const __m512* largest, int head_dim) {
    for (int i = 0; i < ROWS; i++) {
        const float score = _mm512_reduce_max_ps(largest[i]), top = score * group.factor[i];
        if (score <= kMasked || (group.has_seen[i] && top <= group.top[i])) continue;
        const __m512 factor = power_of_two(_mm512_set1_ps(group.top[i] - top));
        group.top[i] = top;
        if (!group.has_seen[i]) {
            group.has_seen[i] = true;
            continue;
        }
        group.totals[i] = _mm512_mul_ps(group.totals[i], factor);
        float* sums = group.sums + i * head_dim;
        for (int d = 0; d < head_dim; d += kLanes) {
            _mm512_store_ps(sums + d, _mm512_mul_ps(_mm512_load_ps(sums + d), factor));
        }
    }
}

// Takes some blocks, at most a span, into the sums of a group.
template <int ROWS>
void attend_span(const AttentionTile& tile, RowGroup& group, int first_block, int last_block) {
    const int head_dim = tile.head_dim;
    alignas(64) float scores[ROWS][kSpanKeys];
    __m512 largest[ROWS];
    score_keys<ROWS>(tile, group, first_block, last_block, scores, largest);
    raise_tops<ROWS>(group, largest, head_dim);
    if ((last_block - first_block) % kPieceBlocks) {
        const __m512 masked = _mm512_set1_ps(kMasked);
        for (int i = 0; i < ROWS; i++) {
            float* missing = scores[i] + (last_block - first_block) * kKvBlock;
            _mm512_store_ps(missing, masked);
            _mm512_store_ps(missing + 16, masked);
        }
    }
    for (int b = first_block; b < last_block; b += kPieceBlocks) {
        const uint8_t *values[kPieceBlocks], *value_scales[kPieceBlocks];
        alignas(64) int16_t weights[ROWS][kPieceKeys];
        alignas(32) float scales[kPaddedRows<ROWS>];
        for (int i = 0; i < kPieceBlocks; i++) {
            const int known = b + i < last_block ? b + i : last_block - 1;
            const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[known];
            values[i] = block + KvHeadBlock::values_at(head_dim);
            value_scales[i] = block + KvHeadBlock::value_scales_at(head_dim);
        }
        weigh<ROWS>(group, scores, (b - first_block) * kKvBlock, value_scales, weights, scales);
        const int n_left = group.n_keys - b * kKvBlock;
        const int n_pairs = n_left >= kPieceKeys ? kPieceKeys / 2 : (n_left + 1) / 2;
        int at = 0;
        for (; at + 32 <= head_dim; at += 32) {
            add_values<ROWS, true>(values, head_dim, at, n_pairs, weights, scales, group.sums);
        }
        if (at < head_dim) {
            add_values<ROWS, false>(values, head_dim, at, n_pairs, weights, scales, group.sums);
        }
    }
}

void open_group(const AttentionTile& tile, int first_row, int n_rows, float* sums, int32_t* queries,
                RowGroup& group) {
    group.first_row = first_row;
    group.n_rows = n_rows;
    group.sums = sums;
    group.queries = queries;
    std::memset(sums, 0, size_t(n_rows) * tile.head_dim * sizeof(float));
    int first = tile.first_key[first_row], last = tile.n_keys[first_row];
    group.first_common = first;
    group.last_common = last;
    for (int i = 0; i < n_rows; i++) {
        const int row = first_row + i, first_key = tile.first_key[row], n_keys = tile.n_keys[row];
        first = first_key < first ? first_key : first;
        last = n_keys > last ? n_keys : last;
        group.first_common = first_key > group.first_common ? first_key : group.first_common;
        group.last_common = n_keys < group.last_common ? n_keys : group.last_common;
        const float factor = tile.softcap > 0 ? kLog2E : tile.query_scales[row] * kLog2E;
        group.factor[i] = factor > kLeastFactor ? factor : kLeastFactor;
        group.top[i] = 0.0f;
        group.has_seen[i] = false;
        group.totals[i] = _mm512_setzero_ps();
        for (int d = 0; d < tile.head_dim / 2; d++) {
            std::memcpy(&queries[d * n_rows + i], tile.queries[row] + 2 * d, 4);
        }
    }
    group.first_block = first / kPieceKeys * kPieceBlocks;
    group.last_block = (last + kKvBlock - 1) / kKvBlock;
    group.n_keys = last;
}

void close_group(const AttentionTile& tile, const RowGroup& group) {
    for (int i = 0; i < group.n_rows; i++) {
        const float* sums = group.sums + i * tile.head_dim;
        float* out = tile.outputs[group.first_row + i];
        const __m512 factor = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(group.totals[i]));
        for (int d = 0; d < tile.head_dim; d += kLanes) {
            _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_load_ps(sums + d), factor));
        }
    }
}

void attend(const AttentionTile& tile) {
    using Function = void (*)(const AttentionTile&, RowGroup&, int, int);
    static constexpr Function kTable[kGroupRows] = {
        attend_span<1>, attend_span<2>, attend_span<3>,  attend_span<4>,
        attend_span<5>, attend_span<6>, attend_span<7>,  attend_span<8>,
        attend_span<9>, attend_span<10>, attend_span<11>, attend_span<12>,
    };
    constexpr int kGroups = (kAttentionRows + kGroupRows - 1) / kGroupRows;
    alignas(64) float sums[kAttentionRows * kMaxHeadDim];
    alignas(64) int32_t queries[kAttentionRows * kMaxHeadDim / 2];
    RowGroup groups[kGroups];
    int n_groups = 0, first_block = INT32_MAX, last_block = 0;
    for (int row = 0; row < tile.n_rows; row += kGroupRows) {
        const int n_left = tile.n_rows - row;
        RowGroup& group = groups[n_groups++];
        open_group(tile, row, n_left < kGroupRows ? n_left : kGroupRows,
                   sums + row * tile.head_dim, queries + row * tile.head_dim / 2, group);
        first_block = group.first_block < first_block ? group.first_block : first_block;
        last_block = group.last_block > last_block ? group.last_block : last_block;
    }
    // A span of keys and values stays in the cache while all groups take it in.
    for (int b = first_block / kSpanBlocks * kSpanBlocks; b < last_block; b += kSpanBlocks) {
        for (int g = 0; g < n_groups; g++) {
            RowGroup& group = groups[g];
            const int first = b > group.first_block ? b : group.first_block;
            const int last = b + kSpanBlocks < group.last_block ? b + kSpanBlocks : group.last_block;
            if (first < last) kTable[group.n_rows - 1](tile, group, first, last);
        }
    }
    for (int g = 0; g < n_groups; g++) close_group(tile, groups[g]);
}

int64_t int8_peak(int64_t n_rounds) {
    constexpr int kSums = 16;
    __m512i sums[kSums];
#pragma GCC unroll 16
    for (int i = 0; i < kSums; i++) sums[i] = _mm512_set1_epi32(i);
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    for (int64_t n = 0; n < n_rounds; n++) {
#pragma GCC unroll 16
        for (int i = 0; i < kSums; i++) {
            asm volatile("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(a), "v"(b));
        }
    }
    return n_rounds * kSums * 64;
}

}  // namespace

const Kernels kAvx512Kernels = {
    "avx512", encode, multiply_each_tile<multiply>, rms_norm, layer_norm, add, rotate, gate,
    quantize, attend, int8_peak, no_preparation, no_preparation,
};

}  // namespace llamaherd
