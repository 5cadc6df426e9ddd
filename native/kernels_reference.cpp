// What the kernels compute, in plain loops: for any machine, and to compare the others with.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "float16.h"
#include "kernels.h"

namespace llamaherd {
namespace {

float load_f32(const uint8_t* at) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
}

float load_f16(const uint8_t* at) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    return float16_to_float(half);
}

// Saturates, and what is not a number is the smallest, as in the vector kernels.
int rounded(float x, int most) {
    if (x > float(most)) return most;
    return x > -float(most) - 1.0f ? int(std::nearbyint(x)) : -most - 1;
}

// ── activations ────────────────────────────────────────────────────────────────────────────

void encode(const ActivationFormat& format, const float* x, int n_inputs, uint8_t* tile, int row) {
    if (format.is_float) {
        std::memcpy(reinterpret_cast<float*>(tile) + size_t(row) * n_inputs, x, n_inputs * 4);
        return;
    }
    for (int k = 0; k < n_inputs; k += kGroup, tile += ActivationFormat::kGroupBytes) {
        float largest = 0;
        for (int i = 0; i < kGroup; i++) largest = std::max(largest, std::fabs(x[k + i]));
        const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
        auto* bytes = reinterpret_cast<int8_t*>(tile) + row * kGroup;
        int sums[2] = {0, 0};
        for (int i = 0; i < kGroup; i++) {
            bytes[i] = int8_t(rounded(x[k + i] * inverse, 127));
            sums[format.halves == 2 ? i / 16 : 0] += bytes[i];
        }
        float* scales = reinterpret_cast<float*>(tile + kTileRows * kGroup);
        scales[row] = scale;
        for (int h = 0; h < 2; h++) {
            const int compensation = -format.zero_point * sums[h];
            float* extras = scales + kTileRows * (1 + h);
            if (format.has_min) extras[row] = scale * float(sums[h]);
            else std::memcpy(extras + row, &compensation, 4);
        }
    }
}

// ── matrix products ────────────────────────────────────────────────────────────────────────

// Value i of an output in a group, as stored.
int weight_of(const Format& format, const uint8_t* group, int column, int i) {
    if (format.bits == 8) return group[(i / 4) * 64 + column * 4 + i % 4];
    const uint8_t both = group[(i % 16 / 4) * 64 + column * 4 + i % 4];
    int value = i < 16 ? both & 15 : both >> 4;
    for (int bit = 4; bit < format.bits; bit++) {
        const uint8_t* words = group + 256 + (bit - 4) * 64 + (i / 4) * 8;
        const int at = column * 4 + i % 4;
        value |= ((words[at / 8] >> (at % 8)) & 1) << bit;
    }
    return value;
}

float dot_group(const Format& format, const uint8_t* group, const uint8_t* scales,
                const uint8_t* mins, const uint8_t* tile, int row, int column, float sum) {
    const auto* bytes = reinterpret_cast<const int8_t*>(tile) + row * kGroup;
    const float* row_scales = reinterpret_cast<const float*>(tile + kTileRows * kGroup);
    const int width = kGroup / format.halves;
    for (int h = 0; h < format.halves; h++) {
        const float* extras = row_scales + kTileRows * (1 + h);
        int dot = 0;
        if (!format.has_min) std::memcpy(&dot, extras + row, 4);
        for (int i = h * width; i < (h + 1) * width; i++) {
            dot += weight_of(format, group, column, i) * bytes[i];
        }
        const int at = (h * kPanel + column) * 2;
        sum += float(dot) * (load_f16(scales + at) * row_scales[row]);
        if (format.has_min) sum += load_f16(mins + at) * extras[row];
    }
    return sum;
}

float dot_quantized(const Format& format, const uint8_t* panel, const uint8_t* tile,
                    int n_superblocks, int row, int column) {
    float sum = 0;
    for (int s = 0; s < n_superblocks; s++, panel += format.superblock_bytes()) {
        const uint8_t* scales = panel + 2 * format.group_bytes();
        const uint8_t* mins = scales + 2 * format.scale_bytes();
        for (int odd = 0; odd < 2; odd++, tile += ActivationFormat::kGroupBytes) {
            sum = dot_group(format, panel + odd * format.group_bytes(),
                            scales + odd * format.scale_bytes(), mins + odd * format.scale_bytes(),
                            tile, row, column, sum);
        }
    }
    return sum / kScaleBias;
}

float dot_floats(Coding coding, const uint8_t* panel, const float* x, int n_inputs, int column) {
    float sum = 0;
    for (int k = 0; k < n_inputs; k++) {
        const size_t at = size_t(k) * kPanel + column;
        float weight;
        if (coding == Coding::kFloat32) {
            weight = load_f32(panel + at * 4);
        } else {
            uint16_t half;
            std::memcpy(&half, panel + at * 2, 2);
            weight = coding == Coding::kFloat16 ? float16_to_float(half) : bfloat16_to_float(half);
        }
        sum += weight * x[k];
    }
    return sum;
}

void multiply(Coding coding, const uint8_t* panel, const uint8_t* tile, int n_superblocks,
              int n_rows, float* out) {
    const Format& format = format_of(coding);
    const int n_inputs = n_superblocks * kSuperblock;
    for (int row = 0; row < n_rows; row++) {
        for (int column = 0; column < kPanel; column++) {
            const float* x = reinterpret_cast<const float*>(tile) + size_t(row) * n_inputs;
            out[row * kPanel + column] =
                format.is_float() ? dot_floats(coding, panel, x, n_inputs, column)
                                  : dot_quantized(format, panel, tile, n_superblocks, row, column);
        }
    }
}

// ── rows ───────────────────────────────────────────────────────────────────────────────────

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
    double squares = 0;
    for (int i = 0; i < n; i++) squares += double(x[i]) * x[i];
    const float factor = 1.0f / std::sqrt(float(squares / n) + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, int n, float eps,
                float* out) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    const float mean = float(sum / n);
    for (int i = 0; i < n; i++) squares += double(x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(float(squares / n) + eps);
    for (int i = 0; i < n; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

void add(float* x, const float* y, int n) {
    for (int i = 0; i < n; i++) x[i] += y[i];
}

void rotate(float* head, const float* cosines, const float* sines, int n_pairs) {
    for (int i = 0; i < n_pairs; i++) {
        const float a = head[i], b = head[n_pairs + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[n_pairs + i] = a * sines[i] + b * cosines[i];
    }
}

void gate(Gate kind, const float* g, const float* u, int n, float* out) {
    for (int i = 0; i < n; i++) {
        const float x = g[i];
        // 0.5 (1 + tanh y) = 1 / (1 + e^(-2y))
        const float z =
            kind == Gate::kGelu ? 1.5957691216f * x * (1.0f + 0.044715f * x * x) : x;
        out[i] = x / (1.0f + std::exp(-z)) * u[i];
    }
}

float quantize(const float* x, int n, float length, int16_t* out) {
    double squares = 0;
    float largest = 0;
    for (int i = 0; i < n; i++) {
        squares += double(x[i]) * x[i];
        largest = std::max(largest, std::fabs(x[i]));
    }
    const float scale = std::max(float(std::sqrt(squares)) / length, largest / kInt16Max);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < n; i++) out[i] = int16_t(rounded(x[i] * inverse, 32767));
    return scale;
}

// ── attention ──────────────────────────────────────────────────────────────────────────────

const uint8_t* block_of(const AttentionTile& tile, int key) {
    return tile.cache + tile.block_stride * tile.blocks[key / kKvBlock];
}

float score_key(const AttentionTile& tile, int row, int key) {
    const uint8_t* block = block_of(tile, key);
    const int place = key % kKvBlock;
    int32_t dot = 0;
    for (int d = 0; d < tile.head_dim; d++) {
        int16_t value;
        std::memcpy(&value, block + (size_t(d / 2) * kKvBlock + place) * 4 + d % 2 * 2, 2);
        dot += int32_t(value) * tile.queries[row][d];
    }
    const float scale = load_f32(block + KvHeadBlock::key_scales_at(tile.head_dim) + place * 4);
    const float score = float(dot) * scale * tile.query_scales[row];
    return tile.softcap > 0 ? tile.softcap * std::tanh(score / tile.softcap) : score;
}

// Adds a block's values to a row's sums, weighted in int16 as the vector kernels do; returns the
// sum of the weights.
float add_block(const AttentionTile& tile, int begin, int end, const float* weights,
                float* sums) {
    const uint8_t* block = block_of(tile, begin);
    const uint8_t* scales = block + KvHeadBlock::value_scales_at(tile.head_dim);
    float total = 0, scaled_total = 0;
    for (int key = begin; key < end; key++) {
        total += weights[key];
        scaled_total += weights[key] * load_f32(scales + key % kKvBlock * 4);
    }
    const float inverse = scaled_total > 0 ? kInt16Max / scaled_total : 0.0f;
    const uint8_t* values = block + KvHeadBlock::values_at(tile.head_dim);
    for (int d = 0; d < tile.head_dim; d++) {
        int32_t dot = 0;
        for (int key = begin; key < end; key++) {
            const int place = key % kKvBlock;
            const size_t at = (size_t(place / 2) * tile.head_dim + d) * 4 + place % 2 * 2;
            int16_t value;
            std::memcpy(&value, values + at, 2);
            const float weight = weights[key] * load_f32(scales + place * 4) * inverse;
            dot += rounded(weight, 32767) * int32_t(value);
        }
        sums[d] += float(dot) * (scaled_total / kInt16Max);
    }
    return total;
}

void attend_row(const AttentionTile& tile, int row) {
    const int first = tile.first_key[row], n_keys = tile.n_keys[row];
    float* scores = tile.scores;
    for (int key = first; key < n_keys; key++) scores[key] = score_key(tile, row, key);
    const float top = *std::max_element(scores + first, scores + n_keys);
    for (int key = first; key < n_keys; key++) scores[key] = std::exp(scores[key] - top);
    float sums[kMaxHeadDim] = {}, total = 0;
    for (int begin = first; begin < n_keys;) {
        const int end = std::min((begin / kKvBlock + 1) * kKvBlock, n_keys);
        total += add_block(tile, begin, end, scores, sums);
        begin = end;
    }
    for (int d = 0; d < tile.head_dim; d++) tile.outputs[row][d] = sums[d] / total;
}

void attend(const AttentionTile& tile) {
    for (int row = 0; row < tile.n_rows; row++) attend_row(tile, row);
}

int64_t int8_peak(int64_t n_rounds) {
    volatile int sum = 0;
    for (int64_t n = 0; n < n_rounds; n++) sum = sum + int8_t(n) * 3;
    return n_rounds;
}

}  // namespace

const Kernels kReferenceKernels = {
    "reference", encode, multiply_each_tile<multiply>, rms_norm, layer_norm, add, rotate, gate,
    quantize, attend, int8_peak, no_preparation, no_preparation,
};

}  // namespace llamaherd
