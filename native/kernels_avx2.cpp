// AVX2, and AVX2 with the byte dot products of AVX-VNNI if LLAMAHERD_AVXVNNI is defined.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#define prefetch(at, hint) _mm_prefetch(reinterpret_cast<const char*>(at), hint)

namespace llamaherd {
namespace {

constexpr int kLanes = 8;
#ifdef LLAMAHERD_AVXVNNI
constexpr bool kHasByteDots = true;
#else
constexpr bool kHasByteDots = false;
#endif

// Sums of integers begin at the bits of 1.5 * 2^23. As a float the result is that number plus the
// sum, exactly, since it stays below 2^22; and a subtraction, unlike a conversion, does not take
// the multipliers' time.
constexpr int kExactStart = 0x4b400000;
constexpr float kExactStartFloat = 12582912.0f;

template <int N>
using Constant = std::integral_constant<int, N>;

// f(0), f(1) ... f(N-1) with constant arguments, so that small arrays live in registers.
template <int N, typename Function>
ALWAYS_INLINE void repeat(Function&& function) {
    [&]<int... I>(std::integer_sequence<int, I...>) INLINE_LAMBDA {
        (function(Constant<I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// function(number, first row) for groups of up to four rows, whose number is a constant.
template <typename Function>
ALWAYS_INLINE void for_row_groups(int n_rows, Function&& function) {
    int row = 0;
    for (; row + 4 <= n_rows; row += 4) function(Constant<4>{}, row);
    if (n_rows - row == 3) function(Constant<3>{}, row);
    if (n_rows - row == 2) function(Constant<2>{}, row);
    if (n_rows - row == 1) function(Constant<1>{}, row);
}

ALWAYS_INLINE __m256i dot_shorts(__m256i sum, __m256i vector, __m256i pairs) {
#ifdef LLAMAHERD_AVXVNNI
    // GCC copies the sum of the intrinsic to and fro.
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(vector), "x"(pairs));
    return sum;
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(vector, pairs));
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
            const int start = kExactStart - zero_point * sums[h];
            if (format.has_min) extras[row] = scale * float(sums[h]);
            else std::memcpy(extras + row, &start, 4);
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

ALWAYS_INLINE __m256 load_halves(const uint8_t* at) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
}

ALWAYS_INLINE __m256i sums_of_pairs(__m256i shorts) {
    return _mm256_madd_epi16(shorts, _mm256_set1_epi16(1));
}

// Bytes of `value` where 32 bits are set.
ALWAYS_INLINE __m256i spread_bits(const uint8_t* bits, char value) {
    int word;
    std::memcpy(&word, bits, 4);
    const __m256i order = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101,
                                             0x0202020202020202, 0x0303030303030303);
    const __m256i one_each = _mm256_set1_epi64x(0x8040201008040201);
    const __m256i bit = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), order),
                                         one_each);
    // One instruction takes the sign of each bit; the eighth one is negative.
    const __m256i signed_value = _mm256_sign_epi8(_mm256_set1_epi8(value), one_each);
    return _mm256_sign_epi8(signed_value, bit);
}

// A group is taken in two passes of 16 values: their weights for all 16 outputs, which are what
// the registers can hold, share every input. Vector [h][t] holds values 4t .. 4t+3 of a pass, for
// outputs 8h .. 8h+7.
using PassWeights = __m256i[2][4];

template <int BITS, int PASS>
ALWAYS_INLINE void unpack(const uint8_t* group, PassWeights& out) {
    const auto load = [&](int vector, int half) INLINE_LAMBDA {
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(group + vector * 64 + half * 32));
    };
    repeat<2>([&](auto h) INLINE_LAMBDA {
        repeat<4>([&](auto t) INLINE_LAMBDA {
            constexpr int kVector = PASS * 4 + t;
            if constexpr (BITS == 8) {
                // Without byte dot products they are taken as signed ones.
                const __m256i bias = _mm256_set1_epi8(kHasByteDots ? 0 : -128);
                out[h][t] = _mm256_xor_si256(load(kVector, h), bias);
            } else {
                const __m256i both = load(t, h);
                out[h][t] = _mm256_and_si256(PASS ? _mm256_srli_epi16(both, 4) : both,
                                             _mm256_set1_epi8(15));
                repeat<BITS - 4>([&](auto bit) INLINE_LAMBDA {
                    const uint8_t* word = group + 256 + bit * 64 + kVector * 8 + h * 4;
                    out[h][t] = _mm256_or_si256(out[h][t], spread_bits(word, char(16 << bit)));
                });
            }
        });
    });
}

// Adds the products of a row's 16 inputs to the sums of 16 outputs, as int32 or, if AS_PAIRS, as
// int16 sums of every other product.
template <int BITS, bool AS_PAIRS>
ALWAYS_INLINE void add_products(const PassWeights& weights, const uint8_t* bytes,
                                __m256i (&sums)[2]) {
    const auto input = [&](int t) INLINE_LAMBDA {
        int four;
        std::memcpy(&four, bytes + t * 4, 4);
        return _mm256_set1_epi32(four);
    };
#ifdef LLAMAHERD_AVXVNNI
    repeat<4>([&](auto t) INLINE_LAMBDA {
        const __m256i inputs = input(t);
        repeat<2>([&](auto h) INLINE_LAMBDA {
            sums[h] = _mm256_dpbusd_avx_epi32(sums[h], weights[h][t], inputs);
        });
    });
#else
    const auto products = [](__m256i w, __m256i inputs) INLINE_LAMBDA {
        if constexpr (BITS < 8) return _mm256_maddubs_epi16(w, inputs);
        else return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(inputs, w));
    };
    // So many sums of two products fit into int16: 31 * 127 * 2 * 4 < 2^15, and so on.
    constexpr int kRun = BITS <= 5 ? 4 : BITS == 6 ? 2 : 1;
    repeat<4 / kRun>([&](auto run) INLINE_LAMBDA {
        __m256i pairs[2] = {sums[0], sums[1]};
        repeat<kRun>([&](auto t) INLINE_LAMBDA {
            const __m256i inputs = input(run * kRun + t);
            repeat<2>([&](auto h) INLINE_LAMBDA {
                const __m256i two = products(weights[h][run * kRun + t], inputs);
                pairs[h] = t == 0 && !AS_PAIRS ? two : _mm256_add_epi16(pairs[h], two);
            });
        });
        repeat<2>([&](auto h) INLINE_LAMBDA {
            sums[h] = AS_PAIRS ? pairs[h] : _mm256_add_epi32(sums[h], sums_of_pairs(pairs[h]));
        });
    });
#endif
}

// Scales and minimums of 16 outputs.
struct Scales {
    __m256 scale[2], min[2];
};

// Adds a pass to the sums of all rows. If a group has one scale only, the first pass leaves its
// sums of integers in `partial`, and the second one completes them. Minimums come with the first
// pass, since the registers cannot hold them beside the scales.
template <Coding CODING, int PASS, int MOST_ROWS>
ALWAYS_INLINE void add_pass(const PassWeights& weights, const Scales& outputs, const uint8_t* tile,
                            int n_rows, __m256i (&partial)[MOST_ROWS][2],
                            __m256 (&sums)[MOST_ROWS][2]) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr bool kBegins = PASS == 0 || kFormat.halves == 2;
    constexpr bool kEnds = PASS == 1 || kFormat.halves == 2;
    // All products of a group: 15 * 127 * 2 * 8 < 2^15.
    constexpr bool kAsPairs = !kHasByteDots && kFormat.bits == 4 && kFormat.halves == 1;
    const float* scales = reinterpret_cast<const float*>(tile + kTileRows * kGroup);
    const float* extras = scales + kTileRows * (1 + (kFormat.halves == 2 ? PASS : 0));
    for (int r = 0; r < n_rows; r++) {
        int first = kExactStart;
        if constexpr (!kFormat.has_min) std::memcpy(&first, extras + r, 4);
        const __m256i start = _mm256_set1_epi32(first);
        __m256i dots[2];
        repeat<2>([&](auto h) INLINE_LAMBDA {
            dots[h] = !kBegins ? partial[r][h] : kAsPairs ? _mm256_setzero_si256() : start;
        });
        add_products<kFormat.bits, kAsPairs>(weights, tile + r * kGroup + PASS * 16, dots);
        repeat<2>([&](auto h) INLINE_LAMBDA {
            if constexpr (kFormat.has_min && kBegins) {
                sums[r][h] = _mm256_fmadd_ps(outputs.min[h], _mm256_set1_ps(extras[r]), sums[r][h]);
            }
            if constexpr (!kEnds) {
                partial[r][h] = dots[h];
                return;
            }
            if constexpr (kAsPairs) dots[h] = _mm256_add_epi32(start, sums_of_pairs(dots[h]));
            const __m256 dot =
                _mm256_sub_ps(_mm256_castsi256_ps(dots[h]), _mm256_set1_ps(kExactStartFloat));
            const __m256 scaled = _mm256_mul_ps(outputs.scale[h], _mm256_set1_ps(scales[r]));
            sums[r][h] = _mm256_fmadd_ps(dot, scaled, sums[r][h]);
        });
    }
}

template <Coding CODING, int MOST_ROWS>
void multiply_quantized(const uint8_t* panel, const uint8_t* tile, int n_superblocks, int n_given,
                        float* out) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr size_t kValues = size_t(kFormat.bits) * 64;
    constexpr size_t kScales = size_t(kFormat.halves) * 32;
    constexpr size_t kSize = 2 * (kValues + kScales * (kFormat.has_min ? 2 : 1));
    // Far enough ahead for the memory, near enough to stay in the first-level cache.
    constexpr size_t kAhead = 2304;
    // Few rows are a constant number, whose sums live in registers.
    const int n_rows = MOST_ROWS < kTileRows ? MOST_ROWS : n_given;
    __m256 sums[MOST_ROWS][2] = {};
    __m256i partial[MOST_ROWS][2];
    for (int s = 0; s < n_superblocks; s++, panel += kSize) {
        for (int odd = 0; odd < 2; odd++, tile += ActivationFormat::kGroupBytes) {
            for (size_t i = 0; i < kSize / 2; i += 64) {
                prefetch(panel + kAhead + odd * kSize / 2 + i, _MM_HINT_T0);
            }
            repeat<2>([&](auto pass) INLINE_LAMBDA {
                constexpr size_t kAt = kFormat.halves == 2 ? pass * 32 : 0;
                PassWeights weights;
                unpack<kFormat.bits, pass>(panel + odd * kValues, weights);
                const uint8_t* scales = panel + 2 * kValues + odd * kScales + kAt;
                Scales outputs;
                repeat<2>([&](auto h) INLINE_LAMBDA {
                    outputs.scale[h] = load_halves(scales + h * 16);
                    outputs.min[h] = kFormat.has_min ? load_halves(scales + 2 * kScales + h * 16)
                                                     : _mm256_setzero_ps();
                });
                add_pass<CODING, pass>(weights, outputs, tile, n_rows, partial, sums);
            });
        }
    }
    const __m256 unbias = _mm256_set1_ps(1.0f / kScaleBias);
    for (int r = 0; r < n_rows; r++) {
        _mm256_storeu_ps(out + r * kPanel, _mm256_mul_ps(sums[r][0], unbias));
        _mm256_storeu_ps(out + r * kPanel + 8, _mm256_mul_ps(sums[r][1], unbias));
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
ALWAYS_INLINE void multiply_floats(const uint8_t* panel, const float* x, size_t n_inputs,
                                   float* out) {
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
        const auto multiply = n_rows == 1   ? multiply_quantized<CODING, 1>
                              : n_rows == 2 ? multiply_quantized<CODING, 2>
                                            : multiply_quantized<CODING, kTileRows>;
        multiply(panel, tile, n_superblocks, n_rows, out);
    } else {
        const size_t n_inputs = size_t(n_superblocks) * kSuperblock;
        const float* x = reinterpret_cast<const float*>(tile);
        for_row_groups(n_rows, [&]<int ROWS>(Constant<ROWS>, int row) {
            multiply_floats<ROWS, CODING>(panel, x + row * n_inputs, n_inputs, out + row * kPanel);
        });
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

void layer_norm(const float* x, const float* weight, const float* bias, int n, float eps,
                float* out) {
    __m256 sum = _mm256_setzero_ps(), squares = _mm256_setzero_ps();
    for (int i = 0; i < n; i += kLanes) sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + i));
    const __m256 mean = _mm256_set1_ps(sum_of_lanes(sum) / float(n));
    for (int i = 0; i < n; i += kLanes) {
        const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + i), mean);
        squares = _mm256_fmadd_ps(v, v, squares);
    }
    const float variance = sum_of_lanes(squares) / float(n);
    const __m256 factor = _mm256_set1_ps(1.0f / __builtin_sqrtf(variance + eps));
    for (int i = 0; i < n; i += kLanes) {
        const __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), mean), factor);
        const __m256 w = _mm256_loadu_ps(weight + i), b = _mm256_loadu_ps(bias + i);
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(v, w, b));
    }
}

void add(float* x, const float* y, int n) {
    for (int i = 0; i < n; i += kLanes) {
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    }
}

void rotate(float* head, const float* cosines, const float* sines, int n_pairs) {
    int i = 0;
    for (; i + kLanes <= n_pairs; i += kLanes) {
        const __m256 a = _mm256_loadu_ps(head + i), b = _mm256_loadu_ps(head + n_pairs + i);
        const __m256 c = _mm256_loadu_ps(cosines + i), s = _mm256_loadu_ps(sines + i);
        _mm256_storeu_ps(head + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(head + n_pairs + i, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
    for (; i < n_pairs; i++) {
        const float a = head[i], b = head[n_pairs + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[n_pairs + i] = a * sines[i] + b * cosines[i];
    }
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

struct KeyRange {
    int first_block, last_block;  // blocks [first, last) that any row sees
    int n_keys;                   // most keys that any row sees
};

KeyRange key_range(const AttentionTile& tile) {
    int first = tile.first_key[0], last = tile.n_keys[0];
    for (int i = 1; i < tile.n_rows; i++) {
        first = tile.first_key[i] < first ? tile.first_key[i] : first;
        last = tile.n_keys[i] > last ? tile.n_keys[i] : last;
    }
    return {first / kKvBlock, (last + kKvBlock - 1) / kKvBlock, last};
}

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

// As many vectors of sums as ROWS rows leave registers for.
template <int ROWS>
constexpr int kSumVectors = ROWS <= 2 ? 4 : 2;

// sums[i][v] = row i's dot products with keys 8v .. 8v+7 from `keys` on.
template <int ROWS>
ALWAYS_INLINE void dot_keys(const AttentionTile& tile, int row, const uint8_t* keys,
                            const uint8_t* values, const uint8_t* next_keys,
                            __m256i (&sums)[ROWS][kSumVectors<ROWS>]) {
    constexpr int kVectors = kSumVectors<ROWS>;
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        repeat<kVectors>([&](auto v) INLINE_LAMBDA { sums[i][v] = _mm256_setzero_si256(); });
    });
    const int16_t* queries[ROWS];
    repeat<ROWS>([&](auto i) INLINE_LAMBDA { queries[i] = tile.queries[row + i]; });
    for (int d = 0; d < tile.head_dim / 2; d++) {
        // Blocks lie far apart: the processor does not foresee the next one by itself.
        repeat<kVectors / 2>([&](auto line) INLINE_LAMBDA {
            prefetch(next_keys + d * 128 + line * 64, _MM_HINT_T0);
            prefetch(values + d * 128 + line * 64, _MM_HINT_T1);
        });
        __m256i k[kVectors];
        repeat<kVectors>([&](auto v) INLINE_LAMBDA {
            k[v] = load_vector(keys + d * 128 + v * 32);
        });
        repeat<ROWS>([&](auto i) INLINE_LAMBDA {
            const __m256i query = broadcast_pair(queries[i] + 2 * d);
            repeat<kVectors>([&](auto v) INLINE_LAMBDA {
                sums[i][v] = dot_shorts(sums[i][v], k[v], query);
            });
        });
    }
}

// Turns a row's dot products with eight keys from `first_key` on into scores as powers of two.
ALWAYS_INLINE __m256 score_of(const AttentionTile& tile, int row, int first_key, __m256i dots,
                              const float* key_scales) {
    __m256 score = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_loadu_ps(key_scales));
    if (tile.softcap > 0) {
        score = _mm256_mul_ps(score, _mm256_set1_ps(tile.query_scales[row]));
        score = _mm256_mul_ps(soft_capped(score, tile.softcap), _mm256_set1_ps(kLog2E));
    } else {
        score = _mm256_mul_ps(score, _mm256_set1_ps(tile.query_scales[row] * kLog2E));
    }
    if (first_key >= tile.first_key[row] && first_key + kLanes <= tile.n_keys[row]) return score;
    return visible(tile.first_key[row], tile.n_keys[row], first_key, score);
}

// Scores of a block's keys for ROWS rows, and the largest of each lane so far.
template <int ROWS>
ALWAYS_INLINE void score_block(const AttentionTile& tile, int row, int b, const uint8_t* next_block,
                               __m256* largest) {
    constexpr int kVectors = kSumVectors<ROWS>;
    const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[b];
    const uint8_t* values = block + KvHeadBlock::values_at(tile.head_dim);
    const auto* scales =
        reinterpret_cast<const float*>(block + KvHeadBlock::key_scales_at(tile.head_dim));
    for (int v = 0; v < kBlockVectors; v += kVectors) {
        __m256i dots[ROWS][kVectors];
        dot_keys<ROWS>(tile, row, block + v * 32, values + v * 32, next_block + v * 32, dots);
        repeat<ROWS>([&](auto i) INLINE_LAMBDA {
            repeat<kVectors>([&](auto u) INLINE_LAMBDA {
                const int at = (v + u) * kLanes, key = b * kKvBlock + at;
                const __m256 score = score_of(tile, row + i, key, dots[i][u], scales + at);
                largest[row + i] = _mm256_max_ps(largest[row + i], score);
                _mm256_storeu_ps(tile.scores + tile.scores_stride * (row + i) + key, score);
            });
        });
    }
}

void score_keys(const AttentionTile& tile, const KeyRange& range, __m256* largest) {
    for (int i = 0; i < tile.n_rows; i++) largest[i] = _mm256_set1_ps(kMasked);
    for (int b = range.first_block; b < range.last_block; b++) {
        const bool is_last = b + 1 == range.last_block;
        // After the last block comes the next head's first one.
        const uint8_t* next_block =
            tile.cache + tile.block_stride * tile.blocks[is_last ? range.first_block : b + 1] +
            (is_last ? KvHeadBlock::n_bytes(tile.head_dim) : 0);
        for_row_groups(tile.n_rows, [&]<int ROWS>(Constant<ROWS>, int row) INLINE_LAMBDA {
            score_block<ROWS>(tile, row, b, next_block, largest);
        });
    }
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

// sums[i] += scales[i] * weights[i] x values, for ROWS rows and VECTORS times 8 dimensions.
template <int ROWS, int VECTORS>
ALWAYS_INLINE void add_values(const uint8_t* values, int head_dim, int n_pairs,
                              const int16_t (*weights)[kKvBlock], const float* scales, int at,
                              float (*sums)[kMaxHeadDim]) {
    __m256i dots[ROWS][VECTORS];
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        repeat<VECTORS>([&](auto v) INLINE_LAMBDA { dots[i][v] = _mm256_setzero_si256(); });
    });
    for (int p = 0; p < n_pairs; p++) {
        const uint8_t* pair = values + (size_t(p) * head_dim + at) * 4;
        __m256i x[VECTORS];
        repeat<VECTORS>([&](auto v) INLINE_LAMBDA { x[v] = load_vector(pair + v * 32); });
        repeat<ROWS>([&](auto i) INLINE_LAMBDA {
            const __m256i weight = broadcast_pair(weights[i] + 2 * p);
            repeat<VECTORS>([&](auto v) INLINE_LAMBDA {
                dots[i][v] = dot_shorts(dots[i][v], x[v], weight);
            });
        });
    }
    repeat<ROWS>([&](auto i) INLINE_LAMBDA {
        const __m256 scale = _mm256_set1_ps(scales[i]);
        repeat<VECTORS>([&](auto v) INLINE_LAMBDA {
            float* sum = sums[i] + at + v * kLanes;
            const __m256 part = _mm256_cvtepi32_ps(dots[i][v]);
            _mm256_store_ps(sum, _mm256_fmadd_ps(part, scale, _mm256_load_ps(sum)));
        });
    });
}

// What attention gathers over the blocks of a sequence.
struct Gathered {
    __m256 tops[kScoreRows], totals[kScoreRows];
    alignas(32) float sums[kScoreRows][kMaxHeadDim];
};

// Adds a block's values, weighted, to the sums of all rows.
void add_block(const AttentionTile& tile, int b, int n_keys, Gathered& gathered) {
    const int head_dim = tile.head_dim;
    const uint8_t* block = tile.cache + tile.block_stride * tile.blocks[b];
    const uint8_t* values = block + KvHeadBlock::values_at(head_dim);
    alignas(32) int16_t weights[kScoreRows][kKvBlock];
    float scales[kScoreRows];
    for (int i = 0; i < tile.n_rows; i++) {
        const float* scores = tile.scores + tile.scores_stride * i + b * kKvBlock;
        scales[i] = weigh(scores, block + KvHeadBlock::value_scales_at(head_dim), gathered.tops[i],
                          gathered.totals[i], weights[i]);
    }
    const int n_left = n_keys - b * kKvBlock;
    const int n_pairs = n_left >= kKvBlock ? kKvBlock / 2 : (n_left + 1) / 2;
    for_row_groups(tile.n_rows, [&]<int ROWS>(Constant<ROWS>, int row) INLINE_LAMBDA {
        constexpr int kVectors = kSumVectors<ROWS>;
        const auto add = [&](auto vectors, int at) INLINE_LAMBDA {
            add_values<ROWS, vectors>(values, head_dim, n_pairs, weights + row, scales + row, at,
                                      gathered.sums + row);
        };
        int at = 0;
        for (; at + kVectors * kLanes <= head_dim; at += kVectors * kLanes) {
            add(Constant<kVectors>{}, at);
        }
        if (at < head_dim) add(Constant<2>{}, at);
    });
}

void attend_rows(const AttentionTile& tile) {
    const KeyRange range = key_range(tile);
    Gathered gathered;
    score_keys(tile, range, gathered.tops);
    for (int i = 0; i < tile.n_rows; i++) {
        gathered.tops[i] = _mm256_set1_ps(largest_of_lanes(gathered.tops[i]));
        gathered.totals[i] = _mm256_setzero_ps();
        std::memset(gathered.sums[i], 0, size_t(tile.head_dim) * sizeof(float));
    }
    for (int b = range.first_block; b < range.last_block; b++) {
        add_block(tile, b, range.n_keys, gathered);
    }
    for (int i = 0; i < tile.n_rows; i++) {
        const __m256 factor = _mm256_set1_ps(1.0f / sum_of_lanes(gathered.totals[i]));
        for (int d = 0; d < tile.head_dim; d += kLanes) {
            const __m256 sum = _mm256_load_ps(gathered.sums[i] + d);
            _mm256_storeu_ps(tile.outputs[i] + d, _mm256_mul_ps(sum, factor));
        }
    }
}

void attend(const AttentionTile& tile) {
    for (int first = 0; first < tile.n_rows; first += kScoreRows) {
        const int n_left = tile.n_rows - first;
        attend_rows(tile.part(first, n_left < kScoreRows ? n_left : kScoreRows));
    }
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
    "avxvnni", encode, multiply_each_tile<multiply>, rms_norm, layer_norm, add, rotate, gate,
    quantize, attend, int8_peak, no_preparation, no_preparation,
};
#else
const Kernels kAvx2Kernels = {
    "avx2", encode, multiply_each_tile<multiply>, rms_norm, layer_norm, add, rotate, gate,
    quantize, attend, int8_peak, no_preparation, no_preparation,
};
#endif

}  // namespace llamaherd
