#include "matrix.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "float16.h"

namespace llamaherd {
namespace {

// 32 values of a row: value i is scale[h] * q[i] + min[h], h = 0 for the first 16 values and
// 1 for the others.
struct Group {
    uint8_t q[kGroup];
    float scale[2];
    float min[2];
};

float load_f16(const uint8_t* at) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return float16_to_float(half);
}

void set_zero_point(Group& group, int zero_point) {
    for (int h = 0; h < 2; h++) group.min[h] = -float(zero_point) * group.scale[h];
}

void set_scale(Group& group, float scale, float min) {
    group.scale[0] = group.scale[1] = scale;
    group.min[0] = group.min[1] = min;
}

void split_nibbles(const uint8_t* bytes, uint8_t* q) {
    for (int i = 0; i < 16; i++) {
        q[i] = bytes[i] & 15;
        q[i + 16] = bytes[i] >> 4;
    }
}

void add_fifth_bit(const uint8_t* bytes, uint8_t* q) {
    uint32_t high;
    std::memcpy(&high, bytes, 4);
    for (int i = 0; i < 32; i++) q[i] |= ((high >> i) & 1) << 4;
}

// The block layouts are those of ggml-common.h; `index` counts groups of 32 within a block.

void decode_q4_0(const uint8_t* block, int, Group& g) {
    set_scale(g, load_f16(block), 0);
    set_zero_point(g, 8);
    split_nibbles(block + 2, g.q);
}

void decode_q4_1(const uint8_t* block, int, Group& g) {
    set_scale(g, load_f16(block), load_f16(block + 2));
    split_nibbles(block + 4, g.q);
}

void decode_q5_0(const uint8_t* block, int, Group& g) {
    set_scale(g, load_f16(block), 0);
    set_zero_point(g, 16);
    split_nibbles(block + 6, g.q);
    add_fifth_bit(block + 2, g.q);
}

void decode_q5_1(const uint8_t* block, int, Group& g) {
    set_scale(g, load_f16(block), load_f16(block + 2));
    split_nibbles(block + 8, g.q);
    add_fifth_bit(block + 4, g.q);
}

void decode_q8_0(const uint8_t* block, int, Group& g) {
    set_scale(g, load_f16(block), 0);
    set_zero_point(g, 128);
    for (int i = 0; i < 32; i++) g.q[i] = block[2 + i] ^ 0x80;
}

// Six-bit scale and minimum of group `index`, as in get_scale_min_k4 of ggml-quants.c.
void k4_scale_min(const uint8_t* scales, int index, int& scale, int& min) {
    if (index < 4) {
        scale = scales[index] & 63;
        min = scales[index + 4] & 63;
    } else {
        scale = (scales[index + 4] & 15) | ((scales[index - 4] >> 6) << 4);
        min = (scales[index + 4] >> 4) | ((scales[index] >> 6) << 4);
    }
}

void set_k4_scales(const uint8_t* block, int index, Group& g) {
    int scale, min;
    k4_scale_min(block + 4, index, scale, min);
    set_scale(g, load_f16(block) * scale, -load_f16(block + 2) * min);
}

void decode_q4_k(const uint8_t* block, int index, Group& g) {
    set_k4_scales(block, index, g);
    const uint8_t* bytes = block + 16 + (index / 2) * 32;
    const int shift = index % 2 * 4;
    for (int i = 0; i < 32; i++) g.q[i] = (bytes[i] >> shift) & 15;
}

void decode_q5_k(const uint8_t* block, int index, Group& g) {
    set_k4_scales(block, index, g);
    const uint8_t* bytes = block + 48 + (index / 2) * 32;
    const int shift = index % 2 * 4;
    for (int i = 0; i < 32; i++) {
        g.q[i] = ((bytes[i] >> shift) & 15) | (((block[16 + i] >> index) & 1) << 4);
    }
}

void decode_q6_k(const uint8_t* block, int index, Group& g) {
    // Halves of 128 values: 64 bytes of low nibbles, 32 bytes of high pairs, 8 scales.
    const int half = index / 4, part = index % 4;
    const uint8_t* low = block + half * 64 + (part % 2) * 32;
    const uint8_t* high = block + 128 + half * 32;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192) + half * 8 + part * 2;
    const float d = load_f16(block + 208);
    for (int h = 0; h < 2; h++) g.scale[h] = d * scales[h];
    set_zero_point(g, 32);
    const int nibble = part / 2 * 4, pair = part * 2;
    for (int i = 0; i < 32; i++) {
        g.q[i] = ((low[i] >> nibble) & 15) | (((high[i] >> pair) & 3) << 4);
    }
}

// Two low bits of group `index`: 32 bytes serve four groups.
void low_pairs(const uint8_t* bytes, int index, uint8_t* q) {
    const uint8_t* from = bytes + index / 4 * 32;
    const int shift = index % 4 * 2;
    for (int i = 0; i < 32; i++) q[i] = (from[i] >> shift) & 3;
}

void decode_q2_k(const uint8_t* block, int index, Group& g) {
    const float d = load_f16(block + 80), dmin = load_f16(block + 82);
    low_pairs(block + 16, index, g.q);
    for (int h = 0; h < 2; h++) {
        const uint8_t both = block[index * 2 + h];
        g.scale[h] = d * (both & 15);
        g.min[h] = -dmin * (both >> 4);
    }
}

// Six-bit scales of Q3_K: low nibbles in the first 8 bytes, high pairs in the last 4.
int q3_scale(const uint8_t* scales, int index) {
    const int low = index < 8 ? scales[index] & 15 : scales[index - 8] >> 4;
    const int high = (scales[8 + index % 4] >> (index / 4 * 2)) & 3;
    return (low | (high << 4)) - 32;
}

void decode_q3_k(const uint8_t* block, int index, Group& g) {
    const float d = load_f16(block + 108);
    low_pairs(block + 32, index, g.q);
    for (int i = 0; i < 32; i++) g.q[i] |= ((block[i] >> index) & 1) << 2;
    for (int h = 0; h < 2; h++) g.scale[h] = d * q3_scale(block + 96, index * 2 + h);
    set_zero_point(g, 4);
}

struct BlockType {
    GgmlType type;
    Coding coding;
    int n_values, n_bytes;
    void (*decode)(const uint8_t*, int, Group&);
};

constexpr BlockType kBlockTypes[] = {
    {GgmlType::kQ4_0, Coding::kZero4, 32, 18, decode_q4_0},
    {GgmlType::kQ4_1, Coding::kMin4, 32, 20, decode_q4_1},
    {GgmlType::kQ5_0, Coding::kZero5, 32, 22, decode_q5_0},
    {GgmlType::kQ5_1, Coding::kMin5, 32, 24, decode_q5_1},
    {GgmlType::kQ8_0, Coding::kZero8, 32, 34, decode_q8_0},
    {GgmlType::kQ2_K, Coding::kHalfMin4, 256, 84, decode_q2_k},
    {GgmlType::kQ3_K, Coding::kHalf4, 256, 110, decode_q3_k},
    {GgmlType::kQ4_K, Coding::kMin4, 256, 144, decode_q4_k},
    {GgmlType::kQ5_K, Coding::kMin5, 256, 176, decode_q5_k},
    {GgmlType::kQ6_K, Coding::kHalf6, 256, 210, decode_q6_k},
    {GgmlType::kF32, Coding::kFloat32, 1, 4, nullptr},
    {GgmlType::kF16, Coding::kFloat16, 1, 2, nullptr},
    {GgmlType::kBF16, Coding::kBfloat16, 1, 2, nullptr},
};

const BlockType& block_type(GgmlType type) {
    for (const BlockType& entry : kBlockTypes) {
        if (entry.type == type) return entry;
    }
    throw std::invalid_argument("tensor type " + std::to_string(int(type)) + " is not supported");
}

float load_float(GgmlType type, const uint8_t* row, int index) {
    if (type == GgmlType::kF32) {
        float value;
        std::memcpy(&value, row + size_t(index) * 4, 4);
        return value;
    }
    uint16_t half;
    std::memcpy(&half, row + size_t(index) * 2, 2);
    return type == GgmlType::kF16 ? float16_to_float(half) : bfloat16_to_float(half);
}

// Where group `group` of a panel begins, and its scales and minimums.
struct GroupPlace {
    uint8_t *values, *scales, *mins;
};

GroupPlace place_of(const Format& format, uint8_t* panel, int group) {
    uint8_t* superblock = panel + format.superblock_bytes() * (group / 2);
    const int odd = group % 2;
    uint8_t* scales = superblock + 2 * format.group_bytes();
    uint8_t* mins = scales + 2 * format.scale_bytes();
    return {superblock + odd * format.group_bytes(), scales + odd * format.scale_bytes(),
            mins + odd * format.scale_bytes()};
}

void store_f16(uint8_t* at, float value) {
    const uint16_t half = float_to_float16(value * kScaleBias);
    std::memcpy(at, &half, 2);
}

void store_values(const Format& format, const Group& group, int column, uint8_t* out) {
    if (format.bits == 8) {
        for (int j = 0; j < 8; j++) std::memcpy(out + j * 64 + column * 4, group.q + j * 4, 4);
        return;
    }
    uint8_t nibbles[16];
    for (int i = 0; i < 16; i++) {
        nibbles[i] = uint8_t((group.q[i] & 15) | ((group.q[i + 16] & 15) << 4));
    }
    for (int t = 0; t < 4; t++) std::memcpy(out + t * 64 + column * 4, nibbles + t * 4, 4);
    for (int bit = 4; bit < format.bits; bit++) {
        uint8_t* words = out + 256 + (bit - 4) * 64;
        for (int j = 0; j < 8; j++) {
            uint8_t four = 0;
            for (int b = 0; b < 4; b++) four |= ((group.q[j * 4 + b] >> bit) & 1) << b;
            words[j * 8 + column / 2] |= uint8_t(four << (column % 2 * 4));
        }
    }
}

void store_group(const Format& format, const Group& group, int column, const GroupPlace& place) {
    store_values(format, group, column, place.values);
    for (int h = 0; h < format.halves; h++) {
        const int at = (h * kPanel + column) * 2;
        store_f16(place.scales + at, group.scale[h]);
        if (format.has_min) store_f16(place.mins + at, group.min[h]);
    }
}

template <int WIDTH>
void pack_floats(uint8_t* panel, const uint8_t* row, int column, int n_inputs) {
    uint8_t* out = panel + column * WIDTH;
    for (int k = 0; k < n_inputs; k++, out += kPanel * WIDTH, row += WIDTH) {
        std::memcpy(out, row, WIDTH);
    }
}

void pack_column(Matrix& matrix, const BlockType& type, const uint8_t* row, int output) {
    const Format& format = matrix.format();
    uint8_t* panel = matrix.data.bytes() + matrix.panel_bytes() * (output / kPanel);
    const int column = output % kPanel;
    if (format.bits == 32) return pack_floats<4>(panel, row, column, matrix.n_inputs);
    if (format.bits == 16) return pack_floats<2>(panel, row, column, matrix.n_inputs);
    const int per_block = type.n_values / kGroup;
    Group group;
    for (int g = 0; g < matrix.n_inputs / kGroup; g++) {
        type.decode(row + size_t(g / per_block) * type.n_bytes, g % per_block, group);
        store_group(format, group, column, place_of(format, panel, g));
    }
}

}  // namespace

Coding coding_of(GgmlType type) { return block_type(type).coding; }

size_t row_bytes(GgmlType type, int n_values) {
    const BlockType& entry = block_type(type);
    if (n_values <= 0 || n_values % entry.n_values) {
        throw std::invalid_argument("rows of " + std::to_string(n_values) +
                                    " values do not fit the blocks of their tensor type");
    }
    return size_t(n_values / entry.n_values) * entry.n_bytes;
}

void dequantize_row(GgmlType type, const uint8_t* row, int n_values, float* out) {
    const BlockType& entry = block_type(type);
    if (!entry.decode) {
        for (int i = 0; i < n_values; i++) out[i] = load_float(type, row, i);
        return;
    }
    const int per_block = entry.n_values / kGroup;
    Group group;
    for (int g = 0; g < n_values / kGroup; g++) {
        entry.decode(row + size_t(g / per_block) * entry.n_bytes, g % per_block, group);
        for (int i = 0; i < kGroup; i++) {
            out[g * kGroup + i] = group.scale[i / 16] * group.q[i] + group.min[i / 16];
        }
    }
}

Matrix make_matrix(GgmlType type, int n_outputs, int n_inputs) {
    row_bytes(type, n_inputs);
    Matrix matrix;
    matrix.coding = coding_of(type);
    matrix.n_outputs = n_outputs;
    matrix.n_inputs = n_inputs;
    matrix.data = Buffer(matrix.panel_bytes() * matrix.n_panels());
    return matrix;
}

void pack_panels(Matrix& matrix, GgmlType type, const uint8_t* rows, const int32_t* order,
                 int first, int last) {
    const BlockType& entry = block_type(type);
    const size_t stride = row_bytes(type, matrix.n_inputs);
    const int end = std::min(last * kPanel, matrix.n_outputs);
    for (int output = first * kPanel; output < end; output++) {
        pack_column(matrix, entry, rows + stride * (order ? order[output] : output), output);
    }
}

}  // namespace llamaherd
