// The inner loops, one table of them per instruction set.
//
// Every kernel computes each row by itself in an order that depends on nothing but the row, so
// that its result is bitwise the same in any company.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matrix.h"

namespace llamaherd {

constexpr int kTileRows = 16;       // rows of activations of a tile
constexpr int kStripRows = 64;      // rows that a product takes at once
constexpr int kKvBlock = 32;        // tokens of a block of the KV cache
constexpr int kMaxHeadDim = 256;
constexpr int kAttentionRows = 48;  // queries that attention takes at once
constexpr int kScoreRows = 8;       // rows of scores that there is room for

// What a weight format wants of the activations that it is multiplied with.
//
// Quantized: per group of 32 inputs, 16 rows of 32 signed bytes, then 16 float scales, then two
// times 16 numbers for the two halves of the group (the first serves both if `halves` is 1):
// minus zero_point times the sum of the bytes as an integer, or, if the format has minimums,
// scale times that sum as a float. Float: 16 rows of floats.
struct ActivationFormat {
    bool is_float;
    int halves;
    bool has_min;
    int zero_point;

    static constexpr size_t kGroupBytes = kTileRows * (kGroup + 3 * 4);

    explicit ActivationFormat(const Format& weights)
        : is_float(weights.is_float()), halves(weights.halves), has_min(weights.has_min),
          zero_point(weights.zero_point) {}
    bool operator==(const ActivationFormat& other) const {
        return is_float == other.is_float && halves == other.halves &&
               has_min == other.has_min && zero_point == other.zero_point;
    }
    // `n_inputs` is a multiple of kSuperblock.
    size_t tile_bytes(int n_inputs) const {
        return is_float ? size_t(kTileRows) * n_inputs * sizeof(float)
                        : size_t(n_inputs / kGroup) * kGroupBytes;
    }
};

// A head's keys and values of 32 tokens. Both are int16 with a scale per token, since the dot
// product of int16 vectors is exact in int32 as long as their lengths are bounded: better than
// float16, twice as fast as float32, and no order of summation to take care of.
//   keys:   [head_dim / 2][32 tokens][2]
//   values: [16 pairs of tokens][head_dim][2]
struct KvHeadBlock {
    static size_t n_bytes(int head_dim) { return size_t(head_dim) * 128 + 2 * kKvBlock * 4; }
    static size_t values_at(int head_dim) { return size_t(head_dim) * 64; }
    static size_t key_scales_at(int head_dim) { return size_t(head_dim) * 128; }
    static size_t value_scales_at(int head_dim) { return size_t(head_dim) * 128 + kKvBlock * 4; }
};

// |query| and |key| as int16 vectors, so that no partial sum leaves int32: 32000 * 60000 < 2^31.
constexpr float kQueryLength = 32000.0f;
constexpr float kKeyLength = 60000.0f;
constexpr float kInt16Max = 32767.0f;

struct AttentionTile {
    int n_rows;                          // at most kAttentionRows
    int head_dim;                        // a multiple of 16
    const int16_t* queries[kAttentionRows];
    float query_scales[kAttentionRows];  // with the scale of the attention in them
    int first_key[kAttentionRows];       // row i sees keys first_key[i] <= k < n_keys[i]
    int n_keys[kAttentionRows];
    float* outputs[kAttentionRows];
    const uint8_t* cache;                // this layer and head in block 0
    size_t block_stride;
    const int32_t* blocks;               // block numbers of the sequence
    float softcap;                       // 0: none
    float* scores;                       // [kScoreRows][scores_stride]
    size_t scores_stride;                // at least the keys, rounded up to a block

    // Rows [first, first + n) alone.
    AttentionTile part(int first, int n) const {
        AttentionTile tile = *this;
        tile.n_rows = n;
        for (int i = 0; i < n; i++) {
            tile.queries[i] = queries[first + i];
            tile.query_scales[i] = query_scales[first + i];
            tile.first_key[i] = first_key[first + i];
            tile.n_keys[i] = n_keys[first + i];
            tile.outputs[i] = outputs[first + i];
        }
        return tile;
    }
};

enum class Gate : int { kSilu, kGelu };

struct Kernels {
    const char* isa;
    // Writes one row of activations into a tile. `n_inputs` is a multiple of kSuperblock.
    void (*encode)(const ActivationFormat&, const float* x, int n_inputs, uint8_t* tile, int row);
    // out[r][c] = activations of row r times output c of the panel, for r < n_rows <= kStripRows.
    // Row r is in tile r / kTileRows; tiles are `tile_stride` bytes apart. `out` has room for the
    // rows of whole tiles.
    void (*multiply)(Coding, const uint8_t* panel, const uint8_t* tiles, size_t tile_stride,
                     int n_superblocks, int n_rows, float* out);
    // out = x / rms(x) * weight. Arrays are padded with zeros to a multiple of 16.
    void (*rms_norm)(const float* x, const float* weight, int n, float eps, float* out);
    // out = (x - mean(x)) / deviation(x) * weight + bias, for n a multiple of 16.
    void (*layer_norm)(const float* x, const float* weight, const float* bias, int n, float eps,
                       float* out);
    // x += y, for n padded to a multiple of 16.
    void (*add)(float* x, const float* y, int n);
    // Turns the pairs (i, i + n_pairs) of a head by their angles.
    void (*rotate)(float* head, const float* cosines, const float* sines, int n_pairs);
    // out = gate(g) * u, for n padded to a multiple of 16.
    void (*gate)(Gate, const float* g, const float* u, int n, float* out);
    // out = x times 1 / scale, rounded, with its length at most `length` and every value in int16.
    float (*quantize)(const float* x, int n, float length, int16_t* out);
    void (*attend)(const AttentionTile&);
    // Multiply-adds of 8-bit integers as fast as the core can, for n rounds; returns how many.
    int64_t (*int8_peak)(int64_t n_rounds);
    // Called by every thread before its first product of a step, and after its last one.
    void (*begin_step)();
    void (*end_step)();
};

// `multiply` of a table by a function that takes one tile.
template <void (*MULTIPLY_TILE)(Coding, const uint8_t*, const uint8_t*, int, int, float*)>
void multiply_each_tile(Coding coding, const uint8_t* panel, const uint8_t* tiles,
                        size_t tile_stride, int n_superblocks, int n_rows, float* out) {
    for (int row = 0; row < n_rows; row += kTileRows, tiles += tile_stride) {
        const int n = n_rows - row < kTileRows ? n_rows - row : kTileRows;
        MULTIPLY_TILE(coding, panel, tiles, n_superblocks, n, out + row * kPanel);
    }
}

inline void no_preparation() {}

// The best table for this machine, or the one called `isa`; throws std::invalid_argument if this
// machine does not have it or there is no such name. "" is the best.
const Kernels& kernels_for(const char* isa);

// Names of the instruction sets that this machine can run, best first.
const char* const* available_isas();

extern const Kernels kReferenceKernels;
#if defined(__x86_64__)
extern const Kernels kAvx512Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx2Kernels;
// A function, since the table is made from another one by code that needs these instructions.
const Kernels& amx_kernels();
#endif

}  // namespace llamaherd
