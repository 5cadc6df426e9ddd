// AVX-512 with the tiles of AMX for matrix products: Sapphire Rapids and newer.
//
// Integer sums are exact, and the floats are added as kernels_avx512.cpp adds them, so that the
// results are bitwise those of AVX-512 alone.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace llamaherd {
namespace {

// With fewer rows the products of AVX-512 are faster, since weights are unpacked to memory here,
// which costs most where they are large or are stored once for each half of a group.
constexpr int fewest_rows(const Format& format) {
    return format.bits == 8 || format.halves == 2 ? 24 : 13;
}

// What is unpacked at once, for all tiles of rows: it fits the first-level cache.
constexpr int kUnits = 32;

// The bits of 1.5 * 2^23, as in kernels_avx512.cpp. Conversions would take the time of multipliers,
// of which only one works while tiles do.
constexpr int kExactStart = 0x4b400000;

// ── tiles ──────────────────────────────────────────────────────────────────────────────────

// Not by intrinsics: GCC's do not say that they read memory, and before GCC 12.4 the one that
// configures tiles drops most of its argument.

struct alignas(64) TileShapes {
    uint8_t palette = 1;
    uint8_t reserved[15] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

void load_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }

void end_step() { asm volatile("tilerelease"); }

template <int TILE>
ALWAYS_INLINE void tile_load(const void* at, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(at), "r"(stride), "i"(TILE) : "memory");
}

template <int TILE>
ALWAYS_INLINE void tile_store(void* at) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(at), "r"(size_t(64)), "i"(TILE) : "memory");
}

template <int SUMS, int ROWS, int WEIGHTS>
ALWAYS_INLINE void tile_dot() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(ROWS), "i"(WEIGHTS));
}

template <int TILE>
ALWAYS_INLINE void tile_zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}

// Tiles 0, 1: sums; 2, 3: rows of activations; 4, 5: weights.
void begin_step() {
    TileShapes shapes;
    for (int t = 0; t < 6; t++) {
        shapes.row_bytes[t] = t / 2 == 1 ? kGroup : 64;
        shapes.rows[t] = t / 2 == 2 ? kGroup / 4 : kTileRows;
    }
    load_shapes(shapes);
}

// ── unpacking ──────────────────────────────────────────────────────────────────────────────

// What shares a scale: the signed weights of a group without their zero point, or those of one half
// of it and zeros for the other one.
struct alignas(64) Unit {
    uint8_t weights[8][64];
    float scales[kPanel];
    float mins[kPanel];
};

template <int BITS>
ALWAYS_INLINE void unpack_values(const uint8_t* group, __m512i (&out)[8]) {
    if constexpr (BITS == 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) out[j] = _mm512_load_si512(group + j * 64);
        return;
    }
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
            out[j] = _mm512_or_si512(out[j], _mm512_maskz_mov_epi8(_cvtu64_mask64(word), value));
        }
    }
}

ALWAYS_INLINE void unpack_scales(const uint8_t* halfs, float* out) {
    _mm512_store_ps(out, _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(halfs))));
}

template <Coding CODING>
ALWAYS_INLINE void unpack_group(const uint8_t* group, const uint8_t* scales, const uint8_t* mins,
                                Unit* units) {
    constexpr Format kFormat = kFormats[int(CODING)];
    __m512i weights[8];
    unpack_values<kFormat.bits>(group, weights);
    const __m512i zero_point = _mm512_set1_epi8(char(kFormat.zero_point));
#pragma GCC unroll 2
    for (int h = 0; h < kFormat.halves; h++) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const bool is_other = kFormat.halves == 2 && j / 4 != h;
            const __m512i value = _mm512_sub_epi8(weights[j], zero_point);
            _mm512_store_si512(units[h].weights[j], is_other ? _mm512_setzero_si512() : value);
        }
        unpack_scales(scales + h * 32, units[h].scales);
        if (kFormat.has_min) unpack_scales(mins + h * 32, units[h].mins);
    }
}

template <Coding CODING>
void unpack(const uint8_t* panel, int n_superblocks, Unit* units) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr size_t kValues = kFormat.group_bytes(), kScales = kFormat.scale_bytes();
    for (int s = 0; s < n_superblocks; s++, panel += kFormat.superblock_bytes()) {
#pragma GCC unroll 1
        for (int odd = 0; odd < 2; odd++, units += kFormat.halves) {
            const uint8_t* scales = panel + 2 * kValues + odd * kScales;
            unpack_group<CODING>(panel + odd * kValues, scales, scales + 2 * kScales, units);
        }
    }
}

// ── matrix products ────────────────────────────────────────────────────────────────────────

// Keeps the compiler from computing addresses relative to others far away: short instructions are
// what the loop's speed depends on.
template <typename T>
ALWAYS_INLINE const T* as_base(const T* at) {
    asm("" : "+r"(at));
    return at;
}

// Every other unit, with tiles and memory of its own, so that dot products of one lane go on while
// those of the other are scaled. The two halves of a group take the same activations.
template <Coding CODING, int ODD>
struct Lane {
    static constexpr Format kFormat = kFormats[int(CODING)];
    static constexpr bool kIsHalf = kFormat.halves == 2;
    static constexpr int kRows = kIsHalf ? 2 : 2 + ODD;
    static constexpr size_t kGroupAt = kIsHalf ? 0 : ODD * ActivationFormat::kGroupBytes;

    static ALWAYS_INLINE void dot(const Unit* pair, const uint8_t* groups) {
        if (!kIsHalf || !ODD) tile_load<kRows>(groups + kGroupAt, kGroup);
        tile_load<4 + ODD>(pair[ODD].weights, 64);
        tile_zero<ODD>();
        tile_dot<ODD, kRows, 4 + ODD>();
    }

    // Scales dot products and adds them to the rows' sums.
    template <int ROWS>
    static ALWAYS_INLINE void add(const Unit* pair, const uint8_t* groups, const int32_t* dots,
                                  __m512* sums) {
        const float* row_scales =
            as_base(reinterpret_cast<const float*>(groups + kGroupAt + kTileRows * kGroup));
        const float* extras = as_base(row_scales + kTileRows * (1 + (kIsHalf ? ODD : 0)));
        const __m512 scales = _mm512_load_ps(pair[ODD].scales);
        const __m512 mins = _mm512_load_ps(pair[ODD].mins);
        const __m512i start = _mm512_set1_epi32(kExactStart);
        dots = as_base(dots);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) {
            const __m512i sum = _mm512_add_epi32(start, _mm512_load_si512(dots + i * kPanel));
            const __m512 dot = _mm512_sub_ps(_mm512_castsi512_ps(sum), _mm512_castsi512_ps(start));
            const __m512 scaled = _mm512_mul_ps(scales, _mm512_set1_ps(row_scales[i]));
            sums[i] = _mm512_fmadd_ps(dot, scaled, sums[i]);
            if constexpr (kFormat.has_min) {
                sums[i] = _mm512_fmadd_ps(mins, _mm512_set1_ps(extras[i]), sums[i]);
            }
        }
    }
};

// Weights that will be wanted next, fetched a little at a time: all at once would wait for memory.
struct Fetch {
    const uint8_t* at;
    int n_lines;  // with every pair of units
};

// Adds the products with some units to `out`, for several tiles of rows. Tiles' products take long;
// so the next ones have begun before what they give is stored, and are stored before it is used.
template <int ROWS, Coding CODING>
void add_units(const Unit* units, int n_units, const uint8_t* tiles, size_t tile_stride,
               int n_tiles, Fetch fetch, float* out) {
    using Even = Lane<CODING, 0>;
    using Odd = Lane<CODING, 1>;
    constexpr size_t kPairBytes = ActivationFormat::kGroupBytes * 2 / kFormats[int(CODING)].halves;
    const Unit* const last = units + n_units - 2;
    alignas(64) int32_t even[kTileRows * kPanel], odd[kTileRows * kPanel];
    Even::dot(units, tiles);
    Odd::dot(units, tiles);
    tile_store<0>(even);
    for (int t = 0; t < n_tiles; t++, tiles += tile_stride, out += kTileRows * kPanel) {
        // What is computed after the last one is not used.
        const uint8_t* const after = t + 1 < n_tiles ? tiles + tile_stride : tiles;
        __m512 sums[ROWS];
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) sums[i] = _mm512_load_ps(out + i * kPanel);
        const uint8_t* groups = tiles;
        for (const Unit* pair = units; pair <= last; pair += 2, groups += kPairBytes) {
            for (int i = 0; i < fetch.n_lines; i++, fetch.at += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(fetch.at), _MM_HINT_T1);
            }
            const Unit* const next = pair == last ? units : pair + 2;
            const uint8_t* const next_groups = pair == last ? after : groups + kPairBytes;
            Even::dot(next, next_groups);
            tile_store<1>(odd);
            Even::template add<ROWS>(pair, groups, even, sums);
            Odd::dot(next, next_groups);
            tile_store<0>(even);
            Odd::template add<ROWS>(pair, groups, odd, sums);
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) _mm512_store_ps(out + i * kPanel, sums[i]);
    }
}

template <Coding CODING>
void add_rows(const Unit* units, int n_units, const uint8_t* tiles, size_t tile_stride, int n_rows,
              Fetch fetch, float* out) {
    const int n_tiles = n_rows / kTileRows, n_left = n_rows % kTileRows;
    if (n_tiles) add_units<16, CODING>(units, n_units, tiles, tile_stride, n_tiles, fetch, out);
    tiles += n_tiles * tile_stride, out += n_tiles * kTileRows * kPanel;
    if (n_left > 12) add_units<16, CODING>(units, n_units, tiles, 0, 1, fetch, out);
    else if (n_left > 8) add_units<12, CODING>(units, n_units, tiles, 0, 1, fetch, out);
    else if (n_left > 4) add_units<8, CODING>(units, n_units, tiles, 0, 1, fetch, out);
    else if (n_left) add_units<4, CODING>(units, n_units, tiles, 0, 1, fetch, out);
}

template <Coding CODING>
void multiply_strip(const uint8_t* panel, const uint8_t* tiles, size_t tile_stride,
                    int n_superblocks, int n_rows, float* out) {
    constexpr Format kFormat = kFormats[int(CODING)];
    constexpr int kMost = kUnits / (2 * kFormat.halves);
    const int n_sums = round_up(n_rows, kTileRows) * kPanel;
    Unit units[kUnits];
    std::memset(out, 0, n_sums * sizeof(float));
    for (int s = 0; s < n_superblocks; s += kMost) {
        const int n = n_superblocks - s < kMost ? n_superblocks - s : kMost;
        const int n_units = n * 2 * kFormat.halves;
        const size_t n_bytes = n * kFormat.superblock_bytes();
        unpack<CODING>(panel, n, units);
        panel += n_bytes;
        const int n_pairs = n_units / 2 * (n_sums / (kPanel * kTileRows));
        const Fetch fetch{panel, int(n_bytes / 64 + n_pairs - 1) / n_pairs};
        add_rows<CODING>(units, n_units, tiles, tile_stride, n_rows, fetch, out);
        tiles += n * 2 * ActivationFormat::kGroupBytes;
    }
    const __m512 unbias = _mm512_set1_ps(1.0f / kScaleBias);
    for (int i = 0; i < n_sums; i += kPanel) {
        _mm512_store_ps(out + i, _mm512_mul_ps(_mm512_load_ps(out + i), unbias));
    }
}

template <Coding CODING>
void multiply_rows(const uint8_t* panel, const uint8_t* tiles, size_t tile_stride,
                   int n_superblocks, int n_rows, float* out) {
    if (n_rows >= fewest_rows(kFormats[int(CODING)])) {
        multiply_strip<CODING>(panel, tiles, tile_stride, n_superblocks, n_rows, out);
    } else {
        kAvx512Kernels.multiply(CODING, panel, tiles, tile_stride, n_superblocks, n_rows, out);
    }
}

void multiply(Coding coding, const uint8_t* panel, const uint8_t* tiles, size_t tile_stride,
              int n_superblocks, int n_rows, float* out) {
    using Function = void (*)(const uint8_t*, const uint8_t*, size_t, int, int, float*);
    static constexpr Function kTable[] = {
        multiply_rows<Coding::kZero4>, multiply_rows<Coding::kMin4>, multiply_rows<Coding::kZero5>,
        multiply_rows<Coding::kMin5>,  multiply_rows<Coding::kZero8>, multiply_rows<Coding::kHalf6>,
        multiply_rows<Coding::kHalf4>,
    };
    // Q2_K gains nothing, and floats have no tiles of their kind.
    if (coding <= Coding::kHalf4) {
        kTable[int(coding)](panel, tiles, tile_stride, n_superblocks, n_rows, out);
    } else {
        kAvx512Kernels.multiply(coding, panel, tiles, tile_stride, n_superblocks, n_rows, out);
    }
}

// The products of full tiles, of which those of a group fill a half.
int64_t int8_peak(int64_t n_rounds) {
    constexpr int kSums = 4;
    TileShapes shapes;
    for (int t = 0; t < kSums + 2; t++) shapes.row_bytes[t] = 64, shapes.rows[t] = 16;
    load_shapes(shapes);
    for (int64_t n = 0; n < n_rounds; n++) {
        tile_dot<0, 4, 5>();
        tile_dot<1, 4, 5>();
        tile_dot<2, 4, 5>();
        tile_dot<3, 4, 5>();
    }
    end_step();
    return n_rounds * kSums * 16 * 16 * 64;
}

Kernels with_tiles(const Kernels& base) {
    Kernels kernels = base;
    kernels.isa = "amx";
    kernels.multiply = multiply;
    kernels.int8_peak = int8_peak;
    kernels.begin_step = begin_step;
    kernels.end_step = end_step;
    return kernels;
}

}  // namespace

const Kernels& amx_kernels() {
    static const Kernels kernels = with_tiles(kAvx512Kernels);
    return kernels;
}

}  // namespace llamaherd
