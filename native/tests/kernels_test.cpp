// Checks every kernel of every instruction set of this machine against double precision, and that
// a row's bits do not depend on its company. Run under the sanitizers by `make sanitize`.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <vector>

#include "context.h"
#include "float16.h"
#include "kernels.h"
#include "matrix.h"
#include "model.h"

using namespace llamaherd;

namespace {

int n_failures = 0;
std::mt19937 generator(1);

void expect(bool holds, const char* isa, const char* what, double value = 0) {
    if (holds) return;
    n_failures++;
    std::printf("%s: %s (%g)\n", isa, what, value);
}

void expect_near(double value, double expected, double tolerance, const char* isa,
                 const char* what) {
    expect(std::fabs(value - expected) <= tolerance, isa, what, value - expected);
}

float normal() { return std::normal_distribution<float>()(generator); }

std::vector<float> normals(size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = normal();
    return values;
}

int random_below(int n) { return int(generator() % unsigned(n)); }

// Aligned for the kernels and of just this size, so that the sanitizers see what they read.
class Aligned {
  public:
    explicit Aligned(size_t n_bytes)
        : size_(n_bytes), bytes_(new (std::align_val_t(64)) uint8_t[n_bytes]()) {}
    Aligned(const Aligned&) = delete;
    ~Aligned() { ::operator delete[](bytes_, std::align_val_t(64)); }
    uint8_t* bytes() const { return bytes_; }
    float* floats() const { return reinterpret_cast<float*>(bytes_); }
    size_t size() const { return size_; }

  private:
    size_t size_;
    uint8_t* bytes_;
};

// ── matrix products ────────────────────────────────────────────────────────────────────────

struct BlockLayout {
    GgmlType type;
    const char* name;
    int n_values, n_bytes;
    std::vector<int> scales;  // where a block has its float16 scales
};

const BlockLayout kLayouts[] = {
    {GgmlType::kQ4_0, "Q4_0", 32, 18, {0}},       {GgmlType::kQ4_1, "Q4_1", 32, 20, {0, 2}},
    {GgmlType::kQ5_0, "Q5_0", 32, 22, {0}},       {GgmlType::kQ5_1, "Q5_1", 32, 24, {0, 2}},
    {GgmlType::kQ8_0, "Q8_0", 32, 34, {0}},       {GgmlType::kQ2_K, "Q2_K", 256, 84, {80, 82}},
    {GgmlType::kQ3_K, "Q3_K", 256, 110, {108}},   {GgmlType::kQ4_K, "Q4_K", 256, 144, {0, 2}},
    {GgmlType::kQ5_K, "Q5_K", 256, 176, {0, 2}},  {GgmlType::kQ6_K, "Q6_K", 256, 210, {208}},
    {GgmlType::kF16, "F16", 1, 2, {}},            {GgmlType::kBF16, "BF16", 1, 2, {}},
    {GgmlType::kF32, "F32", 1, 4, {}},
};

// The first outputs have the largest and the smallest values everywhere, for the integers that sum
// them up. Scales that are powers of two make the products of K-quants' two levels of scales exact
// in float16, too.
std::vector<uint8_t> random_rows(const BlockLayout& layout, int n_outputs, int n_inputs,
                                 bool are_scales_exact) {
    std::vector<uint8_t> rows(row_bytes(layout.type, n_inputs) * n_outputs);
    for (uint8_t& byte : rows) byte = uint8_t(generator());
    const size_t stride = rows.size() / n_outputs;
    std::fill(rows.begin(), rows.begin() + stride, uint8_t(0xff));
    std::fill(rows.begin() + stride, rows.begin() + 2 * stride, uint8_t(0x00));
    for (size_t block = 0; block < rows.size(); block += layout.n_bytes) {
        for (int at : layout.scales) {
            const float mantissa = are_scales_exact ? 1 : 1 + float(random_below(1024)) / 1024;
            const float value = mantissa / float(64 << random_below(4));
            const uint16_t half = float_to_float16(random_below(2) ? value : -value);
            std::memcpy(&rows[block + at], &half, 2);
        }
        if (layout.n_values > 1) continue;
        const uint32_t bits = float_to_bits(normal());
        const uint16_t half = layout.type == GgmlType::kF16 ? float_to_float16(bits_to_float(bits))
                                                            : uint16_t(bits >> 16);
        if (layout.n_bytes == 2) std::memcpy(&rows[block], &half, 2);
        else std::memcpy(&rows[block], &bits, 4);
    }
    return rows;
}

// Rows of every size, one of them zero, one with a group of zeros, and some of extremes only.
std::vector<float> random_input(int row, int n_inputs, int n_padded) {
    std::vector<float> x = normals(n_padded);
    const float size = row == 5 ? 0.0f : std::pow(10.0f, float(row % 5 - 2));
    for (float& value : x) value *= size;
    x[n_inputs / 3] *= 30;
    if (row >= 12) {
        for (float& value : x) value = row == 12 ? 1 : row == 13 ? -1 : std::copysign(1, value);
    }
    if (row == 3) std::fill(x.begin(), x.begin() + kGroup, 0.0f);
    std::fill(x.begin() + n_inputs, x.end(), 0.0f);
    return x;
}

// A row of a tile as the kernels see it.
std::vector<double> encoded(const ActivationFormat& format, const uint8_t* tile, int row,
                            int n_padded) {
    std::vector<double> x(n_padded);
    for (int k = 0; k < n_padded; k++) {
        if (format.is_float) {
            x[k] = reinterpret_cast<const float*>(tile)[size_t(row) * n_padded + k];
            continue;
        }
        const uint8_t* group = tile + k / kGroup * ActivationFormat::kGroupBytes;
        const auto* scales = reinterpret_cast<const float*>(group + kTileRows * kGroup);
        x[k] = double(scales[row]) * int8_t(group[row * kGroup + k % kGroup]);
    }
    return x;
}

void check_encoded(const Kernels& kernels, const std::vector<float>& x,
                   const std::vector<double>& rounded, bool is_float) {
    for (size_t begin = 0; begin < x.size(); begin += kGroup) {
        float most = 0;
        for (int i = 0; i < kGroup; i++) most = std::max(most, std::fabs(x[begin + i]));
        const double tolerance = is_float ? 0 : most / 127 * 0.5001;
        for (int i = 0; i < kGroup; i++) {
            expect_near(rounded[begin + i], x[begin + i], tolerance, kernels.isa, "encode");
        }
    }
}

// A matrix and 16 rows of activations.
struct Product {
    const Kernels& kernels;
    const BlockLayout& layout;
    std::vector<uint8_t> rows;
    Matrix matrix;
    ActivationFormat format;
    int n_padded;
    std::vector<std::vector<float>> inputs;
    Aligned panels, tile;

    Product(const Kernels& kernels, const BlockLayout& layout, int n_outputs, int n_inputs,
            bool are_scales_exact)
        : kernels(kernels), layout(layout),
          rows(random_rows(layout, n_outputs, n_inputs, are_scales_exact)),
          matrix(make_matrix(layout.type, n_outputs, n_inputs)), format(matrix.format()),
          n_padded(matrix.n_superblocks() * kSuperblock), panels(matrix.data.size()),
          tile(format.tile_bytes(n_padded)) {
        pack_panels(matrix, layout.type, rows.data(), nullptr, 0, matrix.n_panels());
        std::memcpy(panels.bytes(), matrix.data.bytes(), panels.size());
        for (int r = 0; r < kTileRows; r++) {
            inputs.push_back(random_input(r, n_inputs, n_padded));
            kernels.encode(format, inputs[r].data(), n_padded, tile.bytes(), r);
        }
    }

    void multiply(int panel, const Aligned& activations, int n_rows, float* out) const {
        kernels.multiply(matrix.coding, panels.bytes() + matrix.panel_bytes() * panel,
                         activations.bytes(), 0, matrix.n_superblocks(), n_rows, out);
    }
};

// Exact scales leave the sums' own rounding; others err by up to 2^-11, all the same way at worst.
void check_values(const Product& product, int panel, const float* sums, bool are_scales_exact) {
    const Matrix& matrix = product.matrix;
    const size_t stride = row_bytes(product.layout.type, matrix.n_inputs);
    std::vector<float> weights(matrix.n_inputs);
    for (int r = 0; r < kTileRows; r++) {
        const auto x = encoded(product.format, product.tile.bytes(), r, product.n_padded);
        if (panel == 0) {
            check_encoded(product.kernels, product.inputs[r], x, product.format.is_float);
        }
        for (int c = 0; c < kPanel; c++) {
            const int output = panel * kPanel + c;
            double expected = 0, squares = 0, size = 0, largest = 0;
            if (output < matrix.n_outputs) {
                dequantize_row(product.layout.type, product.rows.data() + stride * output,
                               matrix.n_inputs, weights.data());
                for (int k = 0; k < matrix.n_inputs; k++) {
                    expected += x[k] * weights[k];
                    squares += x[k] * x[k] * weights[k] * weights[k];
                    size += std::fabs(x[k]);
                    largest = std::max(largest, std::fabs(double(weights[k])));
                }
            }
            const double tolerance =
                are_scales_exact ? 1e-5 * std::sqrt(squares) : 2e-3 * size * largest;
            expect_near(sums[r * kPanel + c], expected, tolerance, product.kernels.isa,
                        product.layout.name);
        }
    }
}

// Each row beside others, in fewer of them, and alone in another place.
void check_company(const Product& product, int panel, const float* sums) {
    const Kernels& kernels = product.kernels;
    alignas(64) float out[kTileRows * kPanel];
    for (int n = 1; n < kTileRows; n++) {
        product.multiply(panel, product.tile, n, out);
        expect(!std::memcmp(sums, out, size_t(n) * kPanel * 4), kernels.isa, "fewer rows", n);
    }
    Aligned tile(product.tile.size());
    for (int r = 0; r < kTileRows; r++) {
        const auto& others = product.inputs[(r + 7) % kTileRows];
        kernels.encode(product.format, others.data(), product.n_padded, tile.bytes(), 1);
        kernels.encode(product.format, product.inputs[r].data(), product.n_padded, tile.bytes(), 0);
        product.multiply(panel, tile, 1, out);
        expect(!std::memcmp(sums + r * kPanel, out, kPanel * 4), kernels.isa, "a row alone", r);
    }
}

// Strips of several tiles, each with the same rows in it. The results of AMX are those of AVX-512.
void check_strips(const Product& product, int panel, const float* sums) {
    const Matrix& matrix = product.matrix;
    const bool is_amx = !std::strcmp(product.kernels.isa, "amx");
    const Kernels& other = is_amx ? kernels_for("avx512") : product.kernels;
    const size_t stride = product.tile.size() + 64;
    Aligned tiles(kStripRows / kTileRows * stride);
    for (int row = 0; row < kStripRows; row += kTileRows) {
        std::memcpy(tiles.bytes() + row / kTileRows * stride, product.tile.bytes(), product.tile.size());
    }
    alignas(64) float out[kStripRows * kPanel], expected[kStripRows * kPanel];
    for (int n : {12, 13, 17, 23, 24, 31, 33, 47, 52, 64}) {
        const auto multiply = [&](const Kernels& kernels, float* to) {
            kernels.multiply(matrix.coding, product.panels.bytes() + matrix.panel_bytes() * panel,
                             tiles.bytes(), stride, matrix.n_superblocks(), n, to);
        };
        multiply(product.kernels, out);
        multiply(other, expected);
        for (int row = 0; row < n; row++) {
            const float* alone = sums + row % kTileRows * kPanel;
            expect(!std::memcmp(alone, out + row * kPanel, kPanel * 4), product.kernels.isa, "strip", n);
        }
        expect(!std::memcmp(out, expected, size_t(n) * kPanel * 4), product.kernels.isa, "avx512", n);
    }
}

void check_product(const Kernels& kernels, const BlockLayout& layout, int n_outputs, int n_inputs,
                   bool are_scales_exact) {
    kernels.begin_step();
    const Product product(kernels, layout, n_outputs, n_inputs, are_scales_exact);
    alignas(64) float sums[kTileRows * kPanel];
    for (int panel = 0; panel < product.matrix.n_panels(); panel++) {
        product.multiply(panel, product.tile, kTileRows, sums);
        check_values(product, panel, sums, are_scales_exact);
        check_company(product, panel, sums);
        check_strips(product, panel, sums);
    }
    kernels.end_step();
}

// Packing in another order, and panel by panel, is packing reordered rows at once.
void check_packing(const BlockLayout& layout) {
    const int n_outputs = 35, n_inputs = 256;
    const std::vector<uint8_t> rows = random_rows(layout, n_outputs, n_inputs, false);
    const size_t stride = row_bytes(layout.type, n_inputs);
    std::vector<int32_t> order(n_outputs);
    std::vector<uint8_t> reordered(rows.size());
    for (int i = 0; i < n_outputs; i++) {
        order[i] = i * 12 % n_outputs;
        std::memcpy(&reordered[i * stride], &rows[order[i] * stride], stride);
    }
    Matrix by_order = make_matrix(layout.type, n_outputs, n_inputs);
    Matrix at_once = make_matrix(layout.type, n_outputs, n_inputs);
    for (int panel : {2, 0, 1}) {
        pack_panels(by_order, layout.type, rows.data(), order.data(), panel, panel + 1);
    }
    pack_panels(at_once, layout.type, reordered.data(), nullptr, 0, at_once.n_panels());
    expect(!std::memcmp(by_order.data.bytes(), at_once.data.bytes(), at_once.data.size()),
           "packing", layout.name);
}

// ── attention ──────────────────────────────────────────────────────────────────────────────

constexpr int kCacheBlocks = 20;
constexpr int kMostKeys = 200;

struct Sequence {
    int head_dim;
    std::vector<float> keys, values;
    Aligned cache;
    std::vector<int32_t> blocks;
};

void store_short(uint8_t* at, int16_t value) { std::memcpy(at, &value, 2); }

// Leftovers: any integers, and any finite scales.
void fill_with_garbage(Sequence& s) {
    const size_t block_bytes = KvHeadBlock::n_bytes(s.head_dim);
    for (int b = 0; b < kCacheBlocks; b++) {
        uint8_t* block = s.cache.bytes() + block_bytes * b;
        for (size_t i = 0; i < block_bytes; i += 2) store_short(block + i, int16_t(generator()));
        auto* scales = reinterpret_cast<float*>(block + KvHeadBlock::key_scales_at(s.head_dim));
        for (int i = 0; i < 2 * kKvBlock; i++) scales[i] = random_below(3) ? 1e30f : 0.0f;
    }
}

void store_token(const Kernels& kernels, Sequence& s, int key) {
    const int place = key % kKvBlock;
    uint8_t* block =
        s.cache.bytes() + KvHeadBlock::n_bytes(s.head_dim) * s.blocks[key / kKvBlock];
    std::vector<int16_t> rounded(s.head_dim);
    const float* from = &s.keys[size_t(key) * s.head_dim];
    float scale = kernels.quantize(from, s.head_dim, kKeyLength, rounded.data());
    std::memcpy(block + KvHeadBlock::key_scales_at(s.head_dim) + place * 4, &scale, 4);
    for (int d = 0; d < s.head_dim; d++) {
        store_short(block + (size_t(d / 2) * kKvBlock + place) * 4 + d % 2 * 2, rounded[d]);
    }
    from = &s.values[size_t(key) * s.head_dim];
    scale = kernels.quantize(from, s.head_dim, std::numeric_limits<float>::max(), rounded.data());
    std::memcpy(block + KvHeadBlock::value_scales_at(s.head_dim) + place * 4, &scale, 4);
    uint8_t* values = block + KvHeadBlock::values_at(s.head_dim);
    for (int d = 0; d < s.head_dim; d++) {
        store_short(values + (size_t(place / 2) * s.head_dim + d) * 4 + place % 2 * 2, rounded[d]);
    }
}

std::vector<double> naive_attention(const Sequence& s, const float* query, int first, int n_keys,
                                    double scale, double softcap) {
    std::vector<double> weights, out(s.head_dim);
    double total = 0;
    for (int key = first; key < n_keys; key++) {
        const float* k = &s.keys[size_t(key) * s.head_dim];
        double score = 0;
        for (int d = 0; d < s.head_dim; d++) score += double(query[d]) * k[d];
        score *= scale;
        if (softcap > 0) score = softcap * std::tanh(score / softcap);
        weights.push_back(std::exp(score));
        total += weights.back();
    }
    for (int key = first; key < n_keys; key++) {
        for (int d = 0; d < s.head_dim; d++) {
            out[d] += weights[key - first] / total * s.values[size_t(key) * s.head_dim + d];
        }
    }
    return out;
}

// Queries of different reach into a sequence, more than any kernel keeps in registers.
constexpr int kQueries = 26;

struct Attention {
    const Kernels& kernels;
    Sequence sequence;
    std::vector<float> queries[kQueries];
    std::vector<int16_t> rounded[kQueries];
    float scales[kQueries];
    int first_key[kQueries], n_keys[kQueries];
    float scale, softcap;

    Attention(const Kernels& kernels, int head_dim, int most_keys, float softcap)
        : kernels(kernels), sequence{head_dim, normals(size_t(most_keys) * head_dim),
                                     normals(size_t(most_keys) * head_dim),
                                     Aligned(KvHeadBlock::n_bytes(head_dim) * kCacheBlocks), {}},
          scale(1.0f / std::sqrt(float(head_dim))), softcap(softcap) {
        for (int b = 0; b < kCacheBlocks; b++) sequence.blocks.push_back(b);
        std::shuffle(sequence.blocks.begin(), sequence.blocks.end(), generator);
        fill_with_garbage(sequence);
        for (int key = 0; key < most_keys; key++) store_token(kernels, sequence, key);
        for (int i = 0; i < kQueries; i++) {
            queries[i] = normals(head_dim);
            rounded[i].resize(head_dim);
            scales[i] = scale * kernels.quantize(queries[i].data(), head_dim, kQueryLength,
                                                 rounded[i].data());
            n_keys[i] = i == 2 ? most_keys : 1 + random_below(most_keys);
            first_key[i] = i % 2 ? random_below(n_keys[i]) : 0;
        }
    }

    // Rows [first, first + n) in one tile.
    std::vector<std::vector<float>> attend(int first, int n) const {
        const int head_dim = sequence.head_dim;
        const size_t scores_stride = round_up(kMostKeys, kKvBlock);
        Aligned scores(kScoreRows * scores_stride * sizeof(float));
        std::vector<std::vector<float>> outputs(n, std::vector<float>(head_dim));
        AttentionTile tile{};
        tile.n_rows = n;
        tile.head_dim = head_dim;
        tile.cache = sequence.cache.bytes();
        tile.block_stride = KvHeadBlock::n_bytes(head_dim);
        tile.blocks = sequence.blocks.data();
        tile.softcap = softcap;
        tile.scores = scores.floats();
        tile.scores_stride = scores_stride;
        for (int i = 0; i < n; i++) {
            tile.queries[i] = rounded[first + i].data();
            tile.query_scales[i] = scales[first + i];
            tile.n_keys[i] = n_keys[first + i];
            tile.first_key[i] = first_key[first + i];
            tile.outputs[i] = outputs[i].data();
        }
        kernels.attend(tile);
        return outputs;
    }
};

void check_attention(const Kernels& kernels, int head_dim, int most_keys, float softcap) {
    const Attention attention(kernels, head_dim, most_keys, softcap);
    const auto together = attention.attend(0, kQueries);
    float largest = 0;
    for (float value : attention.sequence.values) largest = std::max(largest, std::fabs(value));
    for (int i = 0; i < kQueries; i++) {
        const auto expected =
            naive_attention(attention.sequence, attention.queries[i].data(), attention.first_key[i],
                            attention.n_keys[i], attention.scale, softcap);
        for (int d = 0; d < head_dim; d++) {
            expect_near(together[i][d], expected[d], 2e-4 * largest, kernels.isa, "attention");
        }
    }
    for (const int n : {1, 2, 3, 5, 8, 11, 12, 13, 25}) {
        for (int first = 0; first + n <= kQueries; first += 5) {
            const auto outputs = attention.attend(first, n);
            for (int i = 0; i < n; i++) {
                expect(!std::memcmp(outputs[i].data(), together[first + i].data(), head_dim * 4),
                       kernels.isa, "attention beside other rows", n);
            }
        }
    }
}

// ── rows ───────────────────────────────────────────────────────────────────────────────────

void check_norm_and_add(const Kernels& kernels, int n) {
    std::vector<float> x = normals(round_up(n, 16)), weight = normals(x.size()), out(x.size());
    std::fill(x.begin() + n, x.end(), 0.0f);
    kernels.rms_norm(x.data(), weight.data(), n, 1e-5f, out.data());
    double squares = 0;
    for (float value : x) squares += double(value) * value;
    for (int i = 0; i < n; i++) {
        const double expected = x[i] / std::sqrt(squares / n + 1e-5) * weight[i];
        expect_near(out[i], expected, 1e-6 * std::fabs(expected) + 1e-9, kernels.isa, "rms_norm");
    }
    out = x;
    kernels.add(out.data(), weight.data(), n);
    for (int i = 0; i < n; i++) expect(out[i] == x[i] + weight[i], kernels.isa, "add", i);
}

void check_layer_norm(const Kernels& kernels, int n) {
    std::vector<float> x = normals(n), weight = normals(n), bias = normals(n), out(n);
    // A mean that is far from zero, where squares minus the squared mean would lose all digits.
    for (float& value : x) value += 100.0f;
    kernels.layer_norm(x.data(), weight.data(), bias.data(), n, 1e-12f, out.data());
    double sum = 0, squares = 0;
    for (float value : x) sum += value;
    const double mean = sum / n;
    for (float value : x) squares += (value - mean) * (value - mean);
    for (int i = 0; i < n; i++) {
        const double scaled = (x[i] - mean) / std::sqrt(squares / n + 1e-12) * weight[i];
        expect_near(out[i], scaled + bias[i], 2e-5 * (std::fabs(weight[i]) + std::fabs(scaled)) + 1e-6,
                    kernels.isa, "layer_norm");
    }
    kernels.layer_norm(x.data(), weight.data(), bias.data(), n, 1e-12f, x.data());
    expect(x == out, kernels.isa, "layer_norm in place", n);
}

void check_gate(const Kernels& kernels) {
    std::vector<float> x = normals(256), y = normals(x.size()), out(x.size());
    const float ends[] = {0.0f, -0.0f, 1e-6f, 20.0f, 86.0f, 89.0f, 1000.0f, 1e30f};
    for (size_t i = 0; i < x.size(); i++) {
        if (i % 4 == 0) x[i] = ends[i / 4 % 8] * (i / 32 % 2 ? 1.0f : -1.0f);
        else if (i % 4 == 1) x[i] *= 10;
    }
    for (Gate kind : {Gate::kSilu, Gate::kGelu}) {
        kernels.gate(kind, x.data(), y.data(), int(x.size()), out.data());
        for (size_t i = 0; i < x.size(); i++) {
            const double v = x[i], z = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
            const double expected =
                (kind == Gate::kSilu ? v / (1 + std::exp(-v)) : v / (1 + std::exp(-2 * z))) * y[i];
            const double tolerance = 1e-6 * (std::fabs(expected) + std::fabs(y[i]));
            expect_near(out[i], expected, tolerance, kernels.isa, "gate");
        }
    }
}

void check_rotate(const Kernels& kernels, int n_pairs) {
    const std::vector<float> x = normals(2 * n_pairs), angles = normals(n_pairs);
    std::vector<float> out = x, cosines(n_pairs), sines(n_pairs);
    for (int i = 0; i < n_pairs; i++) {
        cosines[i] = std::cos(angles[i]);
        sines[i] = std::sin(angles[i]);
    }
    kernels.rotate(out.data(), cosines.data(), sines.data(), n_pairs);
    for (int i = 0; i < n_pairs; i++) {
        const double a = x[i], b = x[n_pairs + i], c = cosines[i], s = sines[i];
        expect_near(out[i], a * c - b * s, 1e-6, kernels.isa, "rotate");
        expect_near(out[n_pairs + i], a * s + b * c, 1e-6, kernels.isa, "rotate");
    }
}

void check_quantize(const Kernels& kernels, int n, float length) {
    for (float outlier : {1.0f, 1000.0f, 0.0f}) {
        std::vector<float> x = normals(n);
        for (float& value : x) value *= outlier > 0 ? 3.0f : 0.0f;
        x[n / 2] *= outlier;
        std::vector<int16_t> out(n);
        const float scale = kernels.quantize(x.data(), n, length, out.data());
        double squares = 0;
        for (int i = 0; i < n; i++) {
            squares += double(out[i]) * out[i];
            expect_near(double(out[i]) * scale, x[i], 0.505 * scale, kernels.isa, "quantize");
        }
        expect(std::sqrt(squares) <= length * 1.001, kernels.isa, "length", std::sqrt(squares));
        expect((scale > 0) == (outlier > 0), kernels.isa, "scale", scale);
    }
}

void check_rows(const Kernels& kernels) {
    for (int n : {16, 40, 80, 1000}) check_norm_and_add(kernels, n);
    for (int n : {16, 384, 1024}) check_layer_norm(kernels, n);
    for (int n_pairs : {3, 8, 16, 20, 32, 40, 128}) check_rotate(kernels, n_pairs);
    for (int n : {16, 48, 64, 256}) {
        for (float length : {kQueryLength, kKeyLength, std::numeric_limits<float>::max()}) {
            check_quantize(kernels, n, length);
        }
    }
    check_gate(kernels);
    expect(kernels.int8_peak(10) > 0, kernels.isa, "int8_peak");
}

void check_choice() {
    const char* best = available_isas()[0];
    expect(!std::strcmp(kernels_for("").isa, best), best, "is not the best");
    try {
        kernels_for("abacus");
        expect(false, "abacus", "should not exist");
    } catch (const std::invalid_argument& error) {
        expect(std::strstr(error.what(), best), best, "should be named as available");
    }
}

// ── a whole model ──────────────────────────────────────────────────────────────────────────

// Odd sizes on purpose: no multiple of a panel, a group or a superblock.
void check_model(const Kernels& kernels) {
    Shape shape;
    shape.n_layer = 2, shape.n_embd = 40, shape.n_head = 6, shape.n_head_kv = 2;
    shape.head_dim = 16, shape.n_ff = 50, shape.n_vocab = 37, shape.n_rot = 8;
    shape.norm_eps = 1e-5f, shape.attention_scale = 0.25f;
    shape.windows = {0, 9}, shape.rope_kinds = {0, 0};
    std::map<std::string, std::vector<float>> values;
    Tensors tensors;
    const auto add = [&](const std::string& name, int n_outputs, int n_inputs) {
        auto& data = values[name] = normals(size_t(n_outputs) * n_inputs);
        for (float& value : data) value /= std::sqrt(float(n_inputs));
        tensors[name] = {GgmlType::kF32, reinterpret_cast<const uint8_t*>(data.data()),
                         data.size() * 4, n_outputs, n_inputs};
    };
    add("token_embd", 37, 40);
    add("output_norm", 1, 40);
    for (const std::string layer : {"blk.0.", "blk.1."}) {
        add(layer + "attn_norm", 1, 40), add(layer + "ffn_norm", 1, 40);
        add(layer + "attn_q", 96, 40), add(layer + "attn_k", 32, 40), add(layer + "attn_v", 32, 40);
        add(layer + "attn_output", 40, 96), add(layer + "ffn_gate", 50, 40);
        add(layer + "ffn_up", 50, 40), add(layer + "ffn_down", 40, 50);
    }
    const Model model(shape, tensors, kernels, 2);
    ContextOptions options;
    options.n_blocks = 12, options.max_rows = 300, options.max_outputs = 4, options.max_tokens = 192;
    options.rope_frequencies = {{1.0, 0.5, 0.1, 0.01}};
    const int32_t blocks[2][6] = {{0, 1, 2, 3, 4, 5}, {11, 9, 7, 10, 8, 6}};
    std::vector<float> alone(48), together(48 * 2);
    Step whole;
    for (int i = 0; i < 150; i++) whole.tokens.push_back(i * 5 % 37);
    whole.chunks = {{0, 150, 0, blocks[0]}};
    whole.outputs = {149};
    Context single(model, options);
    single.execute(whole, alone.data(), 48);
    for (int n_threads : {1, 2, 3}) {
        options.n_threads = n_threads;
        Context context(model, options);
        for (int start = 0; start < 150; start += 50) {
            Step step;
            step.tokens.assign(whole.tokens.begin() + start, whole.tokens.begin() + start + 50);
            step.tokens.insert(step.tokens.end(), step.tokens.begin(), step.tokens.end());
            step.chunks = {{0, 50, start, blocks[1]}, {50, 50, start, blocks[0]}};
            step.outputs = {49, 99};
            context.execute(step, together.data(), 48);
        }
        for (int row = 0; row < 2; row++) {
            expect(!std::memcmp(alone.data(), &together[row * 48], 37 * 4), kernels.isa, "model", n_threads);
        }
    }
}

}  // namespace

int main() {
    check_choice();
    for (const BlockLayout& layout : kLayouts) check_packing(layout);
    for (const char* const* isa = available_isas(); *isa; isa++) {
        const Kernels& kernels = kernels_for(*isa);
        for (const BlockLayout& layout : kLayouts) {
            for (bool are_scales_exact : {true, false}) {
                check_product(kernels, layout, 35, layout.n_values == 1 ? 40 : layout.n_values,
                              are_scales_exact);
                check_product(kernels, layout, 16, layout.n_values == 256 ? 512 : 96,
                              are_scales_exact);
                check_product(kernels, layout, 16, 2304, are_scales_exact);
            }
        }
        for (int head_dim : {16, 32, 48, 64, 80, 96, 128, 256}) {
            for (int n_keys : {1, 2, 31, 32, 33, 100, kMostKeys}) {
                check_attention(kernels, head_dim, n_keys, 0);
            }
            check_attention(kernels, head_dim, 70, 5.0f);
        }
        check_rows(kernels);
        check_model(kernels);
        std::printf("%s: checked\n", *isa);
    }
    return n_failures ? 1 : 0;
}
