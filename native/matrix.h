// Weight matrices as the kernels want them.
//
// A matrix of a GGUF file has N rows (outputs) of K values. Sixteen outputs form a panel, which is
// one sequential stream, walked in superblocks of 64 values along K:
//
//   quantized: two groups of 32 values, then their scales, then their minimums if the format has
//              any. A group is 4 vectors of nibbles (byte 4c+b of vector t: low nibble is value
//              4t+b of output c, high nibble is value 16+4t+b), plus one or two vectors of single
//              bits for the fifth and sixth bit (bit 4c+b of 64-bit word t is value 4t+b), or, at
//              8 bits, 8 vectors of bytes.
//   float:     64 rows of 16 values, in the file's own type.
//
// The value is scale * (q - zero_point), or scale * q + minimum. K is padded to a multiple of 64
// and N to a multiple of 16 with zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "memory.h"

namespace llamaherd {

constexpr int kPanel = 16;       // outputs of a panel
constexpr int kGroup = 32;       // values that share a scale of the activations
constexpr int kSuperblock = 64;  // two groups

// Scales are stored as float16 times this, so that small ones stay normal numbers.
constexpr float kScaleBias = 256.0f;

enum class Coding : uint8_t {
    kZero4,     // Q4_0
    kMin4,      // Q4_1, Q4_K
    kZero5,     // Q5_0
    kMin5,      // Q5_1, Q5_K
    kZero8,     // Q8_0
    kHalf6,     // Q6_K: a scale per 16 values
    kHalf4,     // Q3_K
    kHalfMin4,  // Q2_K
    kFloat16,
    kBfloat16,
    kFloat32,
};
constexpr int kCodings = 11;

struct Format {
    int bits;        // 4, 5, 6, 8; 16 and 32 for floats
    int halves;      // scales per group and output: 1, or 2 for groups of 16
    bool has_min;
    int zero_point;  // 0 with a minimum

    constexpr bool is_float() const { return bits >= 16; }
    constexpr size_t group_bytes() const {
        return is_float() ? size_t(kGroup) * kPanel * (bits / 8) : size_t(bits) * kGroup * kPanel / 8;
    }
    constexpr size_t scale_bytes() const { return is_float() ? 0 : size_t(halves) * kPanel * 2; }
    constexpr size_t superblock_bytes() const {
        return 2 * (group_bytes() + scale_bytes() * (has_min ? 2 : 1));
    }
};

constexpr Format kFormats[kCodings] = {
    {4, 1, false, 8},  {4, 1, true, 0},  {5, 1, false, 16}, {5, 1, true, 0},
    {8, 1, false, 128}, {6, 2, false, 32}, {4, 2, false, 4},  {4, 2, true, 0},
    {16, 0, false, 0}, {16, 0, false, 0}, {32, 0, false, 0},
};

inline const Format& format_of(Coding coding) { return kFormats[static_cast<int>(coding)]; }

inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Types of GGUF tensors, with ggml's numbers.
enum class GgmlType : int {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kBF16 = 30,
};

// How a file's type is packed; throws std::invalid_argument for types that are not.
Coding coding_of(GgmlType type);

// Bytes of a row of `n_values` in the file; throws if the type cannot hold that many.
size_t row_bytes(GgmlType type, int n_values);

// A row of the file as float32.
void dequantize_row(GgmlType type, const uint8_t* row, int n_values, float* out);

struct Matrix {
    Coding coding = Coding::kFloat32;
    int n_outputs = 0;
    int n_inputs = 0;
    Buffer data;

    const Format& format() const { return format_of(coding); }
    int n_panels() const { return round_up(n_outputs, kPanel) / kPanel; }
    int n_superblocks() const { return round_up(n_inputs, kSuperblock) / kSuperblock; }
    size_t panel_bytes() const { return format().superblock_bytes() * n_superblocks(); }
    const uint8_t* panel(int index) const { return data.bytes() + panel_bytes() * index; }
};

// An empty matrix of the right size.
Matrix make_matrix(GgmlType type, int n_outputs, int n_inputs);

// Packs panels [first, last) of a matrix from rows of the file; output i is row `order[i]`, or
// row i where `order` is null.
void pack_panels(Matrix& matrix, GgmlType type, const uint8_t* rows, const int32_t* order,
                 int first, int last);

}  // namespace llamaherd
