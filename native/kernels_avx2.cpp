// AVX2, and AVX2 with the byte dot products of AVX-VNNI if LLAMAHERD_AVXVNNI is defined.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace llamaherd {
namespace {

constexpr int kLanes = 8;
#ifdef LLAMAHERD_AVXVNNI
constexpr bool kHasByteDots = true;
#else
constexpr bool kHasByteDots = false;
#endif

ALWAYS_INLINE __m256i dot_shorts(__m256i sum, __m256i a, __m256i b) {
#ifdef LLAMAHERD_AVXVNNI
    return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

ALWAYS_INLINE __m256 absolute(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

ALWAYS_INLINE float sum_of_lanes(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

ALWAYS_INLINE float largest_of_lanes(__m256 v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

// p times 2^n for whole n from -126 to 127.
ALWAYS_INLINE __m256 times_power(__m256 p, __m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// e^x to about 1e-7; exactly 0 below -87 (and for -infinity).
ALWAYS_INLINE __m256 exponential(__m256 x) {
    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GE_OQ);
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), _mm256_set1_ps(88.0f));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), 8);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    return _mm256_and_ps(normal, times_power(p, n));
}

// 2^x to about 2e-7 for x <= 0; exactly 0 below -126.
ALWAYS_INLINE __m256 power_of_two(__m256 x) {
    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    x = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
    const __m256 n = _mm256_round_ps(x, 8);
    const __m256 r = _mm256_sub_ps(x, n);
    __m256 p = _mm256_set1_ps(1.33390360e-3f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(9.61834299e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.55033284e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(2.40226507e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(6.93147182e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    return _mm256_and_ps(normal, times_power(p, n));
}

// ── activations ────────────────────────────────────────────────────────────────────────────

// 16 floats as signed bytes.
ALWAYS_INLINE __m128i to_bytes(const float* x, __m256 inverse) {
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
    const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
}

ALWAYS_INLINE int sum_of_bytes(__m128i bytes) {
    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), bytes);
    __m128i sums = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
}

void encode_quantized(const ActivationFormat& format, const float* x, int n_inputs, uint8_t* tile,
                      int row) {
    // Without byte dot products the weights of 8 bits are taken as signed ones.
    const int zero_point = format.zero_point == 128 && !kHasByteDots ? 0 : format.zero_point;
    for (int k = 0; k < n_inputs; k += kGroup, tile += ActivationFormat::kGroupBytes) {
        __m256 largest = absolute(_mm256_loadu_ps(x + k));
        for (int i = 8; i < kGroup; i += 8) {
            largest = _mm256_max_ps(largest, absolute(_mm256_loadu_ps(x + k + i)));
        }
        const float most = largest_of_lanes(largest);
        const float scale = most / 127.0f;
        const __m256 inverse = _mm256_set1_ps(most > 0 ? 127.0f / most : 0.0f);
        float* scales = reinterpret_cast<float*>(tile + kTileRows * kGroup);
        scales[row] = scale;
        int sums[2];
        for (int h = 0; h < 2; h++) {
            const __m128i bytes = to_bytes(x + k + h * 16, inverse);
            _mm_store_si128(reinterpret_cast<__m128i*>(tile + row * kGroup + h * 16), bytes);
            sums[h] = sum_of_bytes(bytes);
        }
        if (format.halves == 1) sums[0] += sums[1];
        for (int h = 0; h < 2; h++) {
            float* extras = scales + kTileRows * (1 + h);
            const int compensation = -zero_point * sums[h];
            if (format.has_min) extras[row] = scale * float(sums[h]);
            else std::memcpy(extras + row, &compensation, 4);
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

// Bytes of `value` where 32 bits are set.
ALWAYS_INLINE __m256i spread_bits(const uint8_t* bits, char value) {
    int word;
    std::memcpy(&word, bits, 4);
    const __m256i order = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101,
                                             0x0202020202020202, 0x0303030303030303);
    const __m256i one_each = _mm256_set1_epi64x(0x8040201008040201);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(word), order);
    const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_each), one_each);
    return _mm256_and_si256(is_set, _mm256_set1_epi8(value));
}

// The eight vectors of eight outputs of a group: vector j holds values 4j .. 4j+3.
template <int BITS>
ALWAYS_INLINE void unpack(const uint8_t* group, int half, __m256i (&out)[8]) {
    const auto load = [&](int vector) {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(group + vector * 64 + half * 32));
    };
    if constexpr (BITS == 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            out[j] = kHasByteDots ? load(j) : _mm256_xor_si256(load(j), _mm256_set1_epi8(-128));
        }
    } else {
        const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const __m256i both = load(t);
            out[t] = _mm256_and_si256(both, low);
            out[t + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
#pragma GCC unroll 2
        for (int bit = 4; bit < BITS; bit++) {
            const uint8_t* words = group + 256 + (bit - 4) * 64 + half * 4;
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                out[j] = _mm256_or_si256(out[j], spread_bits(words + j * 8, char(1 << bit)));
            }
        }
    }
}

// The dot products of one row with weights FIRST .. LAST-1 of eight outputs.
template <int BITS, int FIRST, int LAST>
ALWAYS_INLINE __m256i dot_row(const __m256i (&weights)[8], const uint8_t* bytes, int start) {
    __m256i sum = _mm256_set1_epi32(start);
    const auto input = [&](int j) {
        int four;
        std::memcpy(&four, bytes + j * 4, 4);
        return _mm256_set1_epi32(four);
    };
#ifdef LLAMAHERD_AVXVNNI
#pragma GCC unroll 8
    for (int j = FIRST; j < LAST; j++) sum = _mm256_dpbusd_avx_epi32(sum, weights[j], input(j));
#else
    const __m256i ones = _mm256_set1_epi16(1);
    if constexpr (BITS == 8) {
#pragma GCC unroll 8
        for (int j = FIRST; j < LAST; j++) {
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights[j]),
                                                       _mm256_sign_epi8(input(j), weights[j]));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
    } else {
        // So many products of two fit into 16 bits: 15 * 127 * 2 * 8 < 2^15, and so on.
        constexpr int kMost = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;
        constexpr int kRun = kMost < LAST - FIRST ? kMost : LAST - FIRST;
#pragma GCC unroll 8
        for (int j = FIRST; j < LAST; j += kRun) {
            __m256i pairs = _mm256_maddubs_epi16(weights[j], input(j));
            for (int i = 1; i < kRun; i++) {
                const __m256i more = _mm256_maddubs_epi16(weights[j + i], input(j + i));
                pairs = _mm256_add_epi16(pairs, more);
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
    }
#endif
    return sum;
}

// Adds a group (or one half of it) to the sums of all rows, for eight outputs.
template <Coding CODING, int FIRST, int LAST>
ALWAYS_INLINE void add_group(const __m256i (&weights)[8], const uint8_t* scale_at,
                             const uint8_t* min_at, const uint8_t* tile, int half, int n_rows,
                             float* sums) {
    constexpr Format kFormat = kFormats[int(CODING)];
    const auto load = [](const uint8_t* at) {
        return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
    };
    const __m256 scale = load(scale_at);
    const __m256 min = kFormat.has_min ? load(min_at) : _mm256_setzero_ps();
    const float* scales = reinterpret_cast<const float*>(tile + kTileRows * kGroup);
    const float* extras = scales + kTileRows * (1 + half);
    for (int r = 0; r < n_rows; r++) {
        int start = 0;
        if constexpr (!kFormat.has_min) std::memcpy(&start, extras + r, 4);
        const __m256i dot = dot_row<kFormat.bits, FIRST, LAST>(weights, tile + r * kGroup, start);
        const __m256 scaled = _mm256_mul_ps(scale, _mm256_set1_ps(scales[r]));
        __m256 sum = _mm256_load_ps(sums + r * kPanel);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scaled, sum);
        if constexpr (kFormat.has_min) sum = _mm256_fmadd_ps(min, _mm256_set1_ps(extras[r]), sum);
        _mm256_store_ps(sums + r * kPanel, sum);
    }
}

template <Coding CODING>
void multiply_quantized(const uint8_t* panel, const uint8_t* tile, int n_superblocks, int n_rows,
                        float* out) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr size_t kValues = size_t(kFormat.bits) * 64;
    constexpr size_t kScales = size_t(kFormat.halves) * 32;
    constexpr size_t kSize = 2 * (kValues + kScales * (kFormat.has_min ? 2 : 1));
    constexpr int kSplit = kFormat.halves == 1 ? 8 : 4;
    alignas(32) float sums[kTileRows * kPanel] = {};
    for (int s = 0; s < n_superblocks; s++, panel += kSize) {
        for (int odd = 0; odd < 2; odd++, tile += ActivationFormat::kGroupBytes) {
            const uint8_t* scales = panel + 2 * kValues + odd * kScales;
            const uint8_t* mins = scales + 2 * kScales;
            for (int half = 0; half < 2; half++) {
                __m256i weights[8];
                unpack<kFormat.bits>(panel + odd * kValues, half, weights);
                float* to = sums + half * 8;
                const int at = half * 16;
                add_group<CODING, 0, kSplit>(weights, scales + at, mins + at, tile, 0, n_rows, to);
                if constexpr (kFormat.halves == 2) {
                    add_group<CODING, 4, 8>(weights, scales + 32 + at, mins + 32 + at, tile, 1,
                                            n_rows, to);
                }
            }
        }
    }
    const __m256 unbias = _mm256_set1_ps(1.0f / kScaleBias);
    for (int i = 0; i < n_rows * kPanel; i += kLanes) {
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_load_ps(sums + i), unbias));
    }
}

template <Coding CODING>
ALWAYS_INLINE __m256 load_weights(const uint8_t* panel, size_t k, int half) {
    if constexpr (CODING == Coding::kFloat32) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(panel) + k * kPanel + half * 8);
    }
    const uint8_t* at = panel + (k * kPanel + half * 8) * 2;
    const __m128i shorts = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    if constexpr (CODING == Coding::kFloat16) return _mm256_cvtph_ps(shorts);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(shorts), 16));
}

template <int ROWS, Coding CODING>
ALWAYS_INLINE void multiply_floats(const uint8_t* panel, const float* x, size_t n_inputs, float* out) {
    __m256 sums[ROWS][2];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) sums[i][0] = sums[i][1] = _mm256_setzero_ps();
    for (size_t k = 0; k < n_inputs; k++) {
        const __m256 w0 = load_weights<CODING>(panel, k, 0), w1 = load_weights<CODING>(panel, k, 1);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i++) {
            const __m256 input = _mm256_set1_ps(x[i * n_inputs + k]);
            sums[i][0] = _mm256_fmadd_ps(w0, input, sums[i][0]);
            sums[i][1] = _mm256_fmadd_ps(w1, input, sums[i][1]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) {
        _mm256_storeu_ps(out + i * kPanel, sums[i][0]);
        _mm256_storeu_ps(out + i * kPanel + 8, sums[i][1]);
    }
}

template <Coding CODING>
void multiply_rows(const uint8_t* panel, const uint8_t* tile, int n_superblocks, int n_rows,
                   float* out) {
    if constexpr (kFormats[int(CODING)].bits < 16) {
        multiply_quantized<CODING>(panel, tile, n_superblocks, n_rows, out);
    } else {
        const size_t n_inputs = size_t(n_superblocks) * kSuperblock;
        const float* x = reinterpret_cast<const float*>(tile);
        int r = 0;
        for (; r + 4 <= n_rows; r += 4) {
            multiply_floats<4, CODING>(panel, x + r * n_inputs, n_inputs, out + r * kPanel);
        }
        for (; r < n_rows; r++) {
            multiply_floats<1, CODING>(panel, x + r * n_inputs, n_inputs, out + r * kPanel);
        }
    }
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
    __m256 squares = _mm256_setzero_ps();
    for (int i = 0; i < n; i += kLanes) {
        const __m256 v = _mm256_loadu_ps(x + i);
        squares = _mm256_fmadd_ps(v, v, squares);
    }
    const float mean = sum_of_lanes(squares) / float(n);
    const __m256 factor = _mm256_set1_ps(1.0f / __builtin_sqrtf(mean + eps));
    for (int i = 0; i < n; i += kLanes) {
        const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), factor);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(weight + i)));
    }
}

void add(float* x, const float* y, int n) {
    for (int i = 0; i < n; i += kLanes) {
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
}

void rotate(float* head, const float* cosines, const float* sines, int n_pairs) {
    const auto turn = [](float& a, float& b, float c, float s) {
        const float first = a * c - b * s;
        b = a * s + b * c;
        a = first;
    };
    int i = 0;
    for (; i + kLanes <= n_pairs; i += kLanes) {
        const __m256 a = _mm256_loadu_ps(head + i), b = _mm256_loadu_ps(head + n_pairs + i);
        const __m256 c = _mm256_loadu_ps(cosines + i), s = _mm256_loadu_ps(sines + i);
        _mm256_storeu_ps(head + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(head + n_pairs + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
    for (; i < n_pairs; i++) turn(head[i], head[n_pairs + i], cosines[i], sines[i]);
}

void gate(Gate kind, const float* g, const float* u, int n, float* out) {
    const __m256 one = _mm256_set1_ps(1.0f);
    for (int i = 0; i < n; i += kLanes) {
        const __m256 x = _mm256_loadu_ps(g + i);
        __m256 z = x;
        if (kind == Gate::kGelu) {
            // 0.5 (1 + tanh y) = 1 / (1 + e^(-2y))
            const __m256 cubic =
                _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), one);
            z = _mm256_mul_ps(_mm256_mul_ps(x, cubic), _mm256_set1_ps(1.5957691216f));
        }
        const __m256 e = exponential(_mm256_sub_ps(_mm256_setzero_ps(), z));
        const __m256 y = _mm256_div_ps(x, _mm256_add_ps(one, e));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(y, _mm256_loadu_ps(u + i)));
    }
}

float quantize(const float* x, int n, float length, int16_t* out) {
    __m256 squares = _mm256_setzero_ps(), largest = _mm256_setzero_ps();
    for (int i = 0; i < n; i += kLanes) {
        const __m256 v = _mm256_loadu_ps(x + i);
        squares = _mm256_fmadd_ps(v, v, squares);
        largest = _mm256_max_ps(largest, absolute(v));
    }
    const float by_length = __builtin_sqrtf(sum_of_lanes(squares)) / length;
    const float by_value = largest_of_lanes(largest) / kInt16Max;
    const float scale = by_length > by_value ? by_length : by_value;
    const __m256 inverse = _mm256_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
    for (int i = 0; i < n; i += kLanes) {
        const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
        const __m128i shorts = _mm_packs_epi32(_mm256_castsi256_si128(rounded),
                                               _mm256_extracti128_si256(rounded, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), shorts);
    }
    return scale;
}

// ── attention ──────────────────────────────────────────────────────────────────────────────

// A score far below any other.
constexpr float kMasked = -1e30f;
constexpr float kLog2E = 1.4426950408889634f;
constexpr int kBlockVectors = kKvBlock / kLanes;

ALWAYS_INLINE __m256i load_vector(const void* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

ALWAYS_INLINE __m256i broadcast_pair(const int16_t* pair) {
    int both;
    std::memcpy(&both, pair, 4);
    return _mm256_set1_epi32(both);
}

ALWAYS_INLINE __m256 visible(int first_key, int n_keys, int at, __m256 scores) {
    const __m256i keys =
        _mm256_add_epi32(_mm256_set1_epi32(at), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first_key), keys);
    const __m256i seen = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_keys), keys);
    const __m256i mask = _mm256_andnot_si256(before, seen);
    return _mm256_blendv_ps(_mm256_set1_ps(kMasked), scores, _mm256_castsi256_ps(mask));
}

// cap tanh(x / cap), by way of e^(2x / cap)
ALWAYS_INLINE __m256 soft_capped(__m256 x, float cap) {
    const __m256 one = _mm256_set1_ps(1.0f), limit = _mm256_set1_ps(cap);
    const __m256 e = exponential(_mm256_mul_ps(x, _mm256_set1_ps(2.0f / cap)));
    return _mm256_mul_ps(limit, _mm256_div_ps(_mm256_sub_ps(e, one), _mm256_add_ps(e, one)));
}

// Scores of a block's keys for one row, as powers of two; returns the largest of each lane.
ALWAYS_INLINE __m256 score_block(const AttentionTile& tile, int row, int b, __m256 largest) {
    const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[b];
    __m256i dots[kBlockVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; v++) dots[v] = _mm256_setzero_si256();
    for (int d = 0; d < tile.head_dim / 2; d++) {
        const __m256i query = broadcast_pair(tile.queries[row] + 2 * d);
#pragma GCC unroll 4
        for (int v = 0; v < kBlockVectors; v++) {
            dots[v] = dot_shorts(dots[v], load_vector(block + d * 128 + v * 32), query);
        }
    }
    const auto* scales =
        reinterpret_cast<const float*>(block + KvHeadBlock::key_scales_at(tile.head_dim));
    float* out = tile.scores + tile.scores_stride * row + b * kKvBlock;
    const __m256 query_scale = _mm256_set1_ps(tile.query_scales[row]);
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; v++) {
        __m256 score = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[v]), _mm256_loadu_ps(scales + v * 8));
        score = _mm256_mul_ps(score, query_scale);
        if (tile.softcap > 0) score = soft_capped(score, tile.softcap);
        score = _mm256_mul_ps(score, _mm256_set1_ps(kLog2E));
        score = visible(tile.first_key[row], tile.n_keys[row], b * kKvBlock + v * 8, score);
        largest = _mm256_max_ps(largest, score);
        _mm256_storeu_ps(out + v * 8, score);
    }
    return largest;
}

// Weights of a block's values as int16, so that their sum is at most 2^15; returns their scale.
ALWAYS_INLINE float weigh(const float* scores, const uint8_t* value_scales, __m256 top,
                          __m256& total, int16_t* out) {
    const auto* scales = reinterpret_cast<const float*>(value_scales);
    __m256 weights[kBlockVectors], all = _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; v++) {
        const __m256 e = power_of_two(_mm256_sub_ps(_mm256_loadu_ps(scores + v * 8), top));
        total = _mm256_add_ps(total, e);
        // Scales of places that no token has taken yet are zero or finite leftovers.
        weights[v] = _mm256_mul_ps(e, _mm256_loadu_ps(scales + v * 8));
        all = _mm256_add_ps(all, weights[v]);
    }
    const float sum = sum_of_lanes(all);
    const __m256 inverse = _mm256_set1_ps(sum > 0 ? kInt16Max / sum : 0.0f);
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; v += 2) {
        const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(weights[v], inverse));
        const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(weights[v + 1], inverse));
        const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm256_store_si256(reinterpret_cast<__m256i*>(out + v * 8), shorts);
    }
    return sum / kInt16Max;
}

// sums += scale * weights x values, for WIDTH vectors of 8 dimensions.
template <int WIDTH>
ALWAYS_INLINE void add_values(const uint8_t* values, int head_dim, int n_pairs,
                              const int16_t* weights, float scale, float* sums) {
    __m256i dots[WIDTH];
#pragma GCC unroll 4
    for (int v = 0; v < WIDTH; v++) dots[v] = _mm256_setzero_si256();
    for (int p = 0; p < n_pairs; p++) {
        const __m256i weight = broadcast_pair(weights + 2 * p);
        const uint8_t* pair = values + size_t(p) * head_dim * 4;
#pragma GCC unroll 4
        for (int v = 0; v < WIDTH; v++) {
            dots[v] = dot_shorts(dots[v], load_vector(pair + v * 32), weight);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < WIDTH; v++) {
        const __m256 part = _mm256_cvtepi32_ps(dots[v]);
        const __m256 sum = _mm256_fmadd_ps(part, _mm256_set1_ps(scale), _mm256_load_ps(sums + v * 8));
        _mm256_store_ps(sums + v * 8, sum);
    }
}

void attend_row(const AttentionTile& tile, int row) {
    const int head_dim = tile.head_dim, n_keys = tile.n_keys[row];
    const int first = tile.first_key[row] / kKvBlock, last = (n_keys + kKvBlock - 1) / kKvBlock;
    __m256 largest = _mm256_set1_ps(kMasked), total = _mm256_setzero_ps();
    for (int b = first; b < last; b++) largest = score_block(tile, row, b, largest);
    const __m256 top = _mm256_set1_ps(largest_of_lanes(largest));
    alignas(32) float sums[kMaxHeadDim] = {};
    for (int b = first; b < last; b++) {
        const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[b];
        const uint8_t* values = block + KvHeadBlock::values_at(head_dim);
        alignas(32) int16_t weights[kKvBlock];
        const float* scores = tile.scores + tile.scores_stride * row + b * kKvBlock;
        const float scale = weigh(scores, block + KvHeadBlock::value_scales_at(head_dim), top,
                                  total, weights);
        const int n_left = n_keys - b * kKvBlock;
        const int n_pairs = n_left >= kKvBlock ? kKvBlock / 2 : (n_left + 1) / 2;
        int at = 0;
        for (; at + 32 <= head_dim; at += 32) {
            add_values<4>(values + at * 4, head_dim, n_pairs, weights, scale, sums + at);
        }
        if (at < head_dim) add_values<2>(values + at * 4, head_dim, n_pairs, weights, scale, sums + at);
    }
    const __m256 factor = _mm256_set1_ps(1.0f / sum_of_lanes(total));
    for (int d = 0; d < head_dim; d += kLanes) {
        _mm256_storeu_ps(tile.outputs[row] + d, _mm256_mul_ps(_mm256_load_ps(sums + d), factor));
    }
}

void attend(const AttentionTile& tile) {
    for (int row = 0; row < tile.n_rows; row++) attend_row(tile, row);
}

int64_t int8_peak(int64_t n_rounds) {
    constexpr int kSums = 12;
    __m256i sums[kSums];
#pragma GCC unroll 12
    for (int i = 0; i < kSums; i++) sums[i] = _mm256_set1_epi32(i);
    __m256i a = _mm256_set1_epi8(3);
    const __m256i b = _mm256_set1_epi8(5);
    for (int64_t n = 0; n < n_rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < kSums; i++) {
#ifdef LLAMAHERD_AVXVNNI
            sums[i] = _mm256_dpbusd_avx_epi32(sums[i], a, b);
#else
            sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(a, b));
#endif
            // Neither left out nor moved together.
            asm volatile("" : "+x"(sums[i]), "+x"(a));
        }
    }
    return n_rounds * kSums * 32;
}

}  // namespace

#ifdef LLAMAHERD_AVXVNNI
const Kernels kAvxVnniKernels = {
    "avxvnni", encode, multiply, rms_norm, add, rotate, gate, quantize, attend, int8_peak,
};
#else
const Kernels kAvx2Kernels = {
    "avx2", encode, multiply, rms_norm, add, rotate, gate, quantize, attend, int8_peak,
};
#endif

}  // namespace llamaherd
