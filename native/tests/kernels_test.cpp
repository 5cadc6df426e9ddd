// Checks every kernel of every instruction set of this machine against double precision, and that
// a row's bits do not depend on its company. Run under the sanitizers by `make sanitize`.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "context.h"
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

float normal() { return std::normal_distribution<float>()(generator); }

std::vector<float> normals(size_t n) {
    std::vector<float> values(n);
    for (float& value : values) value = normal();
    return values;
}

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
    {GgmlType::kF16, "F16", 1, 2, {0}},           {GgmlType::kBF16, "BF16", 1, 2, {0}},
    {GgmlType::kF32, "F32", 1, 4, {}},
};

std::vector<uint8_t> random_rows(const BlockLayout& layout, int n_outputs, int n_inputs) {
    std::vector<uint8_t> rows(row_bytes(layout.type, n_inputs) * n_outputs);
    for (uint8_t& byte : rows) byte = uint8_t(generator());
    for (size_t block = 0; block < rows.size(); block += layout.n_bytes) {
        for (int at : layout.scales) {
            const uint16_t small = uint16_t(0x1c00 + generator() % 0x400);
            std::memcpy(&rows[block + at], &small, 2);
        }
        if (layout.type == GgmlType::kF32) {
            const float value = normal();
            std::memcpy(&rows[block], &value, 4);
        }
    }
    return rows;
}

// The activations as the kernels round them: 8 bits, a scale per 32 values.
std::vector<double> rounded_activations(const std::vector<float>& x, bool is_float) {
    std::vector<double> out(x.begin(), x.end());
    for (size_t begin = 0; !is_float && begin < x.size(); begin += kGroup) {
        float most = 0;
        for (int i = 0; i < kGroup; i++) most = std::max(most, std::fabs(x[begin + i]));
        for (int i = 0; i < kGroup && most > 0; i++) {
            out[begin + i] = std::nearbyint(x[begin + i] * (127.0f / most)) * (most / 127.0);
        }
    }
    return out;
}

void check_product(const Kernels& kernels, const BlockLayout& layout, int n_outputs, int n_inputs) {
    const std::vector<uint8_t> rows = random_rows(layout, n_outputs, n_inputs);
    Matrix matrix = make_matrix(layout.type, n_outputs, n_inputs);
    pack_panels(matrix, layout.type, rows.data(), nullptr, 0, matrix.n_panels());
    const ActivationFormat format(matrix.format());
    const int n_padded = matrix.n_superblocks() * kSuperblock;
    Buffer tile(format.tile_bytes(n_padded));
    std::vector<std::vector<float>> inputs;
    for (int r = 0; r < kTileRows; r++) {
        inputs.push_back(normals(n_padded));
        std::fill(inputs[r].begin() + n_inputs, inputs[r].end(), 0.0f);
        kernels.encode(format, inputs[r].data(), n_padded, tile.bytes(), r);
    }
    std::vector<float> weights(n_inputs);
    alignas(64) float sums[kTileRows * kPanel], alone[kTileRows * kPanel];
    for (int panel = 0; panel < matrix.n_panels(); panel++) {
        const auto multiply = [&](int n_rows, float* out) {
            kernels.multiply(matrix.coding, matrix.panel(panel), tile.bytes(),
                             matrix.n_superblocks(), n_rows, out);
        };
        multiply(kTileRows, sums);
        for (int n = 1; n < kTileRows; n++) {
            multiply(n, alone);
            expect(!std::memcmp(sums, alone, size_t(n) * kPanel * 4), kernels.isa, layout.name, n);
        }
        for (int c = 0; c < kPanel && panel * kPanel + c < n_outputs; c++) {
            const size_t stride = row_bytes(layout.type, n_inputs);
            dequantize_row(layout.type, rows.data() + stride * (panel * kPanel + c), n_inputs,
                           weights.data());
            for (int r = 0; r < kTileRows; r++) {
                const std::vector<double> x = rounded_activations(inputs[r], format.is_float);
                double expected = 0, size = 0;
                for (int k = 0; k < n_inputs; k++) {
                    expected += x[k] * weights[k];
                    size += x[k] * x[k] * weights[k] * weights[k];
                }
                // Scales of K-quants are rounded to float16.
                const double error = std::fabs(sums[r * kPanel + c] - expected) / std::sqrt(size + 1e-20);
                expect(error < 2e-2, kernels.isa, layout.name, error);
            }
        }
    }
}

// ── attention ──────────────────────────────────────────────────────────────────────────────

struct Sequence {
    int head_dim, n_keys;
    std::vector<float> keys, values;
    Buffer cache;
    std::vector<int32_t> blocks;
};

void store_short(uint8_t* at, int16_t value) { std::memcpy(at, &value, 2); }

Sequence random_sequence(const Kernels& kernels, int head_dim, int n_keys) {
    Sequence s{head_dim, n_keys, normals(size_t(n_keys) * head_dim), normals(size_t(n_keys) * head_dim),
               Buffer(KvHeadBlock::n_bytes(head_dim) * 20), {}};
    for (size_t i = 0; i < s.cache.size() - 8; i += 2) store_short(s.cache.bytes() + i, 1234);
    for (int b = 0; b < 8; b++) s.blocks.push_back((b * 7 + 3) % 20);
    std::vector<int16_t> rounded(head_dim);
    for (int key = 0; key < n_keys; key++) {
        uint8_t* block = s.cache.bytes() + KvHeadBlock::n_bytes(head_dim) * s.blocks[key / kKvBlock];
        const int place = key % kKvBlock;
        float scale = kernels.quantize(&s.keys[size_t(key) * head_dim], head_dim, kKeyLength, rounded.data());
        std::memcpy(block + KvHeadBlock::key_scales_at(head_dim) + place * 4, &scale, 4);
        for (int d = 0; d < head_dim; d++) {
            store_short(block + (size_t(d / 2) * kKvBlock + place) * 4 + d % 2 * 2, rounded[d]);
        }
        scale = kernels.quantize(&s.values[size_t(key) * head_dim], head_dim,
                                 std::numeric_limits<float>::max(), rounded.data());
        std::memcpy(block + KvHeadBlock::value_scales_at(head_dim) + place * 4, &scale, 4);
        for (int d = 0; d < head_dim; d++) {
            store_short(block + KvHeadBlock::values_at(head_dim) +
                            (size_t(place / 2) * head_dim + d) * 4 + place % 2 * 2,
                        rounded[d]);
        }
    }
    return s;
}

std::vector<double> naive_attention(const Sequence& s, const float* query, int first, int n_keys,
                                    double scale, double softcap) {
    std::vector<double> weights, out(s.head_dim);
    double total = 0;
    for (int key = first; key < n_keys; key++) {
        double score = 0;
        for (int d = 0; d < s.head_dim; d++) score += double(query[d]) * s.keys[size_t(key) * s.head_dim + d];
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

void check_attention(const Kernels& kernels, int head_dim, int n_keys, float softcap) {
    const Sequence s = random_sequence(kernels, head_dim, n_keys);
    const float scale = 1.0f / std::sqrt(float(head_dim));
    std::vector<float> queries[kAttentionRows], outputs[kAttentionRows];
    std::vector<int16_t> rounded[kAttentionRows];
    Buffer scores(size_t(kAttentionRows) * 256 * 4);
    AttentionTile tile{};
    tile.head_dim = head_dim;
    tile.cache = s.cache.bytes();
    tile.block_stride = KvHeadBlock::n_bytes(head_dim);
    tile.blocks = s.blocks.data();
    tile.softcap = softcap;
    tile.scores = scores.floats();
    tile.scores_stride = 256;
    for (int i = 0; i < kAttentionRows; i++) {
        queries[i] = normals(head_dim);
        rounded[i].resize(head_dim);
        outputs[i].resize(head_dim);
        tile.query_scales[i] =
            kernels.quantize(queries[i].data(), head_dim, kQueryLength, rounded[i].data()) * scale;
        tile.n_keys[i] = 1 + int(generator() % n_keys);
        tile.first_key[i] = i % 2 ? int(generator() % tile.n_keys[i]) : 0;
    }
    const auto attend = [&](int first, int n) {
        AttentionTile part = tile;
        part.n_rows = n;
        for (int i = 0; i < n; i++) {
            part.queries[i] = rounded[first + i].data();
            part.query_scales[i] = tile.query_scales[first + i];
            part.n_keys[i] = tile.n_keys[first + i];
            part.first_key[i] = tile.first_key[first + i];
            part.outputs[i] = outputs[first + i].data();
        }
        kernels.attend(part);
    };
    attend(0, kAttentionRows);
    for (int i = 0; i < kAttentionRows; i++) {
        const auto expected = naive_attention(s, queries[i].data(), tile.first_key[i], tile.n_keys[i],
                                              scale, softcap);
        for (int d = 0; d < head_dim; d++) {
            const double error = std::fabs(outputs[i][d] - expected[d]);
            expect(error < 2e-3, kernels.isa, "attention", error);
        }
    }
    const std::vector<float> together[2] = {outputs[0], outputs[kAttentionRows - 1]};
    for (int n = 1; n <= kAttentionRows; n++) {
        attend(0, n);
        expect(outputs[0] == together[0], kernels.isa, "attention beside other rows", n);
        attend(kAttentionRows - n, n);
        expect(outputs[kAttentionRows - 1] == together[1], kernels.isa, "attention beside others", n);
    }
}

// ── rows ───────────────────────────────────────────────────────────────────────────────────

void check_rows(const Kernels& kernels) {
    const int n = 80;
    const std::vector<float> x = normals(n), y = normals(n), angles = normals(n);
    std::vector<float> out(n), cosines(n), sines(n);
    kernels.rms_norm(x.data(), y.data(), n, 1e-5f, out.data());
    double squares = 0;
    for (float value : x) squares += double(value) * value;
    for (int i = 0; i < n; i++) {
        const double expected = x[i] / std::sqrt(squares / n + 1e-5) * y[i];
        expect(std::fabs(out[i] - expected) < 1e-5, kernels.isa, "rms_norm", out[i] - expected);
    }
    for (Gate kind : {Gate::kSilu, Gate::kGelu}) {
        kernels.gate(kind, x.data(), y.data(), n, out.data());
        for (int i = 0; i < n; i++) {
            const double v = x[i], z = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
            const double gate = kind == Gate::kSilu ? v / (1 + std::exp(-v)) : v / 2 * (1 + std::tanh(z));
            expect(std::fabs(out[i] - gate * y[i]) < 2e-6, kernels.isa, "gate", out[i] - gate * y[i]);
        }
    }
    for (int n_pairs : {3, 8, 20, 32, 40}) {
        for (int i = 0; i < n_pairs; i++) {
            cosines[i] = std::cos(angles[i]);
            sines[i] = std::sin(angles[i]);
        }
        out = x;
        kernels.rotate(out.data(), cosines.data(), sines.data(), n_pairs);
        for (int i = 0; i < n_pairs; i++) {
            const double a = x[i], b = x[n_pairs + i];
            expect(std::fabs(out[i] - (a * cosines[i] - b * sines[i])) < 1e-6, kernels.isa, "rotate");
            expect(std::fabs(out[n_pairs + i] - (a * sines[i] + b * cosines[i])) < 1e-6, kernels.isa, "rotate");
        }
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
    for (const char* const* isa = available_isas(); *isa; isa++) {
        const Kernels& kernels = kernels_for(*isa);
        for (const BlockLayout& layout : kLayouts) {
            check_product(kernels, layout, 35, layout.n_values == 1 ? 40 : layout.n_values);
            check_product(kernels, layout, 16, layout.n_values == 256 ? 512 : 96);
        }
        for (int head_dim : {16, 32, 48, 64, 80, 96, 128, 256}) {
            for (int n_keys : {1, 31, 32, 33, 200}) check_attention(kernels, head_dim, n_keys, 0);
            check_attention(kernels, head_dim, 70, 5.0f);
        }
        check_rows(kernels);
        check_model(kernels);
        std::printf("%s: checked\n", *isa);
    }
    return n_failures ? 1 : 0;
}
