#include "context.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <stdexcept>

namespace llamaherd {
namespace {

// Rows that one thread takes through a layer at once: their activations stay in its second-level
// cache, while a panel of weights is used for all of them.
constexpr int kBlockRows = 64;
// Attention tiles of one task.

// Floats from one row of activations to the next. A multiple of 4096 bytes would put the same
// outputs of all rows into one set of the cache.
int row_stride(int n_values) { return round_up(n_values, kSuperblock) + kPanel; }

int ceil_div(int n, int divisor) { return (n + divisor - 1) / divisor; }

// x += y for the outputs of a panel.
void add_panel(float* x, const float* y) {
    for (int i = 0; i < kPanel; i++) x[i] += y[i];
}

// Adds its own lifetime to a sum.
class Stopwatch {
  public:
    explicit Stopwatch(double& seconds) : seconds_(seconds), begin_(Clock::now()) {}
    ~Stopwatch() { seconds_ += std::chrono::duration<double>(Clock::now() - begin_).count(); }

  private:
    using Clock = std::chrono::steady_clock;
    double& seconds_;
    const Clock::time_point begin_;
};

size_t tiles_bytes(const Matrix& matrix) {
    return ActivationFormat(matrix.format()).tile_bytes(matrix.n_superblocks() * kSuperblock);
}

}  // namespace

// One step. With many rows every thread takes blocks of them through a layer on its own, and
// threads meet only around attention. With few rows all threads take part in every operation,
// each with some of the outputs. Either way a row's own arithmetic is the same.
class Context::Work {
  public:
    Work(Context& context, const Step& step, float* out, size_t stride)
        : c_(context), model_(context.model_), shape_(context.model_.shape()),
          kernels_(context.model_.kernels()), step_(step), out_(out), stride_(stride),
          n_rows_(int(step.tokens.size())) {
        const int n_threads = c_.pool_.size();
        is_split_by_rows_ = n_rows_ >= kBlockRows * n_threads;
        const int n_blocks = round_up(ceil_div(n_rows_, kBlockRows), n_threads);
        block_rows_ = is_split_by_rows_ ? round_up(ceil_div(n_rows_, n_blocks), kTileRows) : n_rows_;
        positions_.resize(n_rows_);
        chunk_of_.resize(n_rows_);
        for (size_t i = 0; i < step.chunks.size(); i++) add_chunk(int(i));
    }

    // Every thread runs this.
    void run(int thread) {
        const int last = shape_.n_layer - 1;
        each_block(thread, [&](Team team, Rows rows) {
            embed(team, rows);
            project(team, rows, 0);
        });
        for (int layer = 0; layer <= last; layer++) {
            attend(thread, layer);
            each_block(thread, [&](Team team, Rows rows) {
                finish_layer(team, rows, layer);
                if (layer < last) project(team, rows, layer + 1);
            });
        }
        if (step_.wants_hidden) give_hidden(thread);
        else predict(thread);
    }

  private:
    struct Rows {
        int first, last;
        int scratch;  // the first one's place in the scratch memory
        int size() const { return last - first; }
    };

    // The threads that work on a block of rows together: one, or all.
    struct Team {
        ThreadPool* pool;
        int thread;
        bool is_alone;

        int size() const { return is_alone ? 1 : pool->size(); }
        template <typename Task>
        void each(int n_tasks, Task&& task) const {
            if (is_alone) {
                for (int i = 0; i < n_tasks; i++) task(i);
            } else {
                pool->share(thread, n_tasks, task);
            }
        }
    };

    // Queries of one sequence and one head of keys, numbered by token, then by head of the group.
    struct AttentionTask {
        int chunk, kv_head, first, last;
    };

    void add_chunk(int index) {
        const Chunk& chunk = step_.chunks[index];
        for (int i = 0; i < chunk.n_rows; i++) {
            positions_[chunk.first_row + i] = chunk.start + i;
            chunk_of_[chunk.first_row + i] = index;
        }
        const int n_queries = chunk.n_rows * group_size();
        for (int head = 0; head < shape_.n_head_kv; head++) {
            for (int first = 0; first < n_queries; first += kAttentionRows) {
                tasks_.push_back({index, head, first, std::min(first + kAttentionRows, n_queries)});
            }
        }
    }

    int group_size() const { return shape_.n_head / shape_.n_head_kv; }

    template <typename Function>
    void each_block(int thread, Function&& function) {
        if (!is_split_by_rows_) {
            function(Team{&c_.pool_, thread, false}, Rows{0, n_rows_, 0});
            return;
        }
        const Team alone{&c_.pool_, thread, true};
        c_.pool_.share(thread, ceil_div(n_rows_, block_rows_), [&](int block) {
            const int first = block * block_rows_;
            function(alone, Rows{first, std::min(first + block_rows_, n_rows_), thread * kBlockRows});
        });
    }

    float* x(int row) const { return c_.x_.floats() + size_t(row) * row_stride(shape_.n_embd); }
    float* attended(int row) const {
        return c_.attended_.floats() + size_t(row) * row_stride(shape_.query_width());
    }
    float* projected(int scratch) const {
        return c_.projected_.floats() + size_t(scratch) * projected_stride();
    }
    int projected_stride() const { return row_stride(shape_.query_width() + 2 * shape_.kv_width()); }
    float* hidden(int scratch) const {
        return c_.hidden_.floats() + size_t(scratch) * row_stride(shape_.n_ff);
    }
    float* summed(int scratch) const {
        return c_.summed_.floats() + size_t(scratch) * row_stride(shape_.n_embd);
    }
    float* row_buffer(int thread) const {
        return c_.row_.floats() + size_t(thread) * row_stride(shape_.n_embd);
    }
    float* cosines(int kind, int row) const {
        return c_.cosines_.floats() + (size_t(kind) * c_.options_.max_rows + row) * (shape_.n_rot / 2);
    }
    float* sines(int kind, int row) const {
        return c_.sines_.floats() + (size_t(kind) * c_.options_.max_rows + row) * (shape_.n_rot / 2);
    }

    // ── activations and products ────────────────────────────────────────────────────────

    uint8_t* tile(int which, int scratch) const {
        return c_.tiles_[which].bytes() + c_.tile_stride_ * (scratch / kTileRows);
    }

    // Encodes rows for a matrix: `source(row)` gives a row's activations.
    template <typename Source>
    void encode(const Team& team, const Rows& rows, const Matrix& matrix, int which,
                Source&& source) const {
        const Stopwatch stopwatch(c_.times_[team.thread].seconds[kEncoding]);
        const ActivationFormat format(matrix.format());
        team.each(rows.size(), [&](int i) {
            const int scratch = rows.scratch + i;
            kernels_.encode(format, source(rows.first + i), matrix.n_superblocks() * kSuperblock,
                            tile(which, scratch), scratch % kTileRows);
        });
    }

    // What a part of a layer takes: a decoder normalizes before, an encoder after each part.
    const float* normed(int thread, int row, const Buffer& weight) const {
        if (shape_.is_encoder) return x(row);
        float* out = row_buffer(thread);
        kernels_.rms_norm(x(row), weight.floats(), shape_.n_embd, shape_.norm_eps, out);
        return out;
    }

    // Calls `store(matrix, first row, rows, first output, sums)` for strips of the products with
    // several matrices that take the same activations.
    template <typename Store>
    void multiply(const Team& team, const Rows& rows, std::initializer_list<const Matrix*> matrices,
                  int which, Store&& store) const {
        const Stopwatch stopwatch(c_.times_[team.thread].seconds[kProducts]);
        int n_panels = 0;
        for (const Matrix* matrix : matrices) n_panels += matrix->n_panels();
        const int step = std::max(1, n_panels / (team.size() * 6));
        team.each(ceil_div(n_panels, step), [&](int task) {
            const int last = std::min((task + 1) * step, n_panels);
            for (int i = task * step; i < last; i++) {
                int m = 0, panel = i;
                while (panel >= matrices.begin()[m]->n_panels()) {
                    panel -= matrices.begin()[m++]->n_panels();
                }
                multiply_panel(rows, *matrices.begin()[m], which, panel,
                               [&](int row, int n, float* sums) {
                                   store(m, row, n, panel * kPanel, sums);
                               });
            }
        });
    }

    template <typename Store>
    void multiply_panel(const Rows& rows, const Matrix& matrix, int which, int panel,
                        Store&& store) const {
        alignas(64) float sums[kStripRows * kPanel];
        for (int i = 0; i < rows.size(); i += kStripRows) {
            const int n = std::min(kStripRows, rows.size() - i);
            kernels_.multiply(matrix.coding, matrix.panel(panel), tile(which, rows.scratch + i),
                              c_.tile_stride_, matrix.n_superblocks(), n, sums);
            store(i, n, sums);
        }
    }

    // Adds a product, normalized first if the architecture wants that, to the residual stream.
    void add_product(const Team& team, const Rows& rows, const Matrix& matrix, const Buffer& bias,
                     const Buffer& post_norm) const {
        const bool is_direct = !post_norm.bytes();
        multiply(team, rows, {&matrix}, 0, [&](int, int i, int n, int output, float* sums) {
            for (int r = 0; r < n; r++) {
                float* sum = sums + r * kPanel;
                if (bias.bytes()) add_panel(sum, bias.floats() + output);
                if (is_direct) add_panel(x(rows.first + i + r) + output, sum);
                else std::memcpy(summed(rows.scratch + i + r) + output, sum, kPanel * 4);
            }
        });
        if (is_direct) return;
        team.each(rows.size(), [&](int i) {
            float* sum = summed(rows.scratch + i);
            kernels_.rms_norm(sum, post_norm.floats(), shape_.n_embd, shape_.norm_eps, sum);
            kernels_.add(x(rows.first + i), sum, shape_.n_embd);
        });
    }

    void normalize(const Team& team, const Rows& rows, const Buffer& weight,
                   const Buffer& bias) const {
        team.each(rows.size(), [&](int i) {
            float* row = x(rows.first + i);
            kernels_.layer_norm(row, weight.floats(), bias.floats(), shape_.n_embd, shape_.norm_eps,
                                row);
        });
    }

    // ── stages of a layer ───────────────────────────────────────────────────────────────

    void embed(const Team& team, const Rows& rows) const {
        team.each(rows.size(), [&](int i) {
            const int row = rows.first + i;
            if (shape_.is_encoder) {
                model_.embed(step_.tokens[row], positions_[row], step_.token_types[row], x(row));
                kernels_.layer_norm(x(row), model_.embedding_norm(), model_.embedding_norm_bias(),
                                    shape_.n_embd, shape_.norm_eps, x(row));
                return;
            }
            model_.embed(step_.tokens[row], x(row));
            const auto& kinds = c_.options_.rope_frequencies;
            for (int kind = 0; kind < int(kinds.size()); kind++) {
                for (int pair = 0; pair < shape_.n_rot / 2; pair++) {
                    const double angle = positions_[row] * kinds[kind][pair];
                    cosines(kind, row)[pair] = float(std::cos(angle)) * c_.options_.rope_scale;
                    sines(kind, row)[pair] = float(std::sin(angle)) * c_.options_.rope_scale;
                }
            }
        });
    }

    // Queries, keys and values of a layer; the last two go to the cache.
    void project(const Team& team, const Rows& rows, int index) const {
        const Layer& layer = model_.layer(index);
        const auto source = [&](int row) { return normed(team.thread, row, layer.attention_norm); };
        const int width = shape_.query_width();
        const Projection query{&layer.q, &layer.q_bias, 0}, key{&layer.k, &layer.k_bias, width},
            value{&layer.v, &layer.v_bias, width + shape_.kv_width()};
        encode(team, rows, layer.q, 0, source);
        // Mixtures often keep values more exactly than queries and keys.
        if (takes_same(layer.q, layer.k) && takes_same(layer.q, layer.v)) {
            apply(team, rows, {query, key, value});
        } else {
            apply(team, rows, {query});
            if (!takes_same(layer.q, layer.k)) encode(team, rows, layer.k, 0, source);
            apply(team, rows, {key});
            if (!takes_same(layer.k, layer.v)) encode(team, rows, layer.v, 0, source);
            apply(team, rows, {value});
        }
        team.each(rows.size(), [&](int i) { remember(rows.first + i, rows.scratch + i, index); });
    }

    struct Projection {
        const Matrix* matrix;
        const Buffer* bias;
        int begin;  // its first output's place in a row
    };

    static bool takes_same(const Matrix& a, const Matrix& b) {
        return ActivationFormat(a.format()) == ActivationFormat(b.format());
    }

    void apply(const Team& team, const Rows& rows, std::initializer_list<Projection> parts) const {
        const auto store = [&](int m, int i, int n, int output, float* sums) {
            const Projection& part = parts.begin()[m];
            for (int r = 0; r < n; r++) {
                float* sum = sums + r * kPanel;
                if (part.bias->bytes()) add_panel(sum, part.bias->floats() + output);
                std::memcpy(projected(rows.scratch + i + r) + part.begin + output, sum, kPanel * 4);
            }
        };
        const Projection* part = parts.begin();
        if (parts.size() == 1) {
            multiply(team, rows, {part->matrix}, 0, store);
        } else {
            multiply(team, rows, {part[0].matrix, part[1].matrix, part[2].matrix}, 0, store);
        }
    }

    // Turns a row's queries and keys, and stores queries, keys and values as int16.
    void remember(int row, int scratch, int index) const {
        const Layer& layer = model_.layer(index);
        float* values = projected(scratch);
        const int dim = shape_.head_dim, kind = shape_.rope_kinds[index];
        const auto turn = [&](float* head, const Buffer& norm) {
            if (norm.bytes()) kernels_.rms_norm(head, norm.floats(), dim, shape_.norm_eps, head);
            kernels_.rotate(head, cosines(kind, row), sines(kind, row), shape_.n_rot / 2);
        };
        int16_t* queries = query(row, 0);
        float* scales = c_.query_scales_.floats() + size_t(row) * shape_.n_head;
        for (int head = 0; head < shape_.n_head; head++, values += dim, queries += dim) {
            turn(values, layer.q_norm);
            scales[head] = kernels_.quantize(values, dim, kQueryLength, queries) * shape_.attention_scale;
        }
        const Chunk& chunk = step_.chunks[chunk_of_[row]];
        const int position = positions_[row];
        uint8_t* block = c_.cache_.bytes() +
                         shape_.kv_block_bytes() * chunk.blocks[position / kKvBlock] + layer_offset(index);
        for (int head = 0; head < shape_.n_head_kv; head++, values += dim) {
            turn(values, layer.k_norm);
            store_kv(values, values + shape_.kv_width(),
                     block + KvHeadBlock::n_bytes(dim) * head, position % kKvBlock);
        }
    }

    int16_t* query(int row, int head) const {
        return reinterpret_cast<int16_t*>(c_.queries_.bytes()) +
               (size_t(row) * shape_.n_head + head) * shape_.head_dim;
    }

    size_t layer_offset(int index) const {
        return KvHeadBlock::n_bytes(shape_.head_dim) * shape_.n_head_kv * (index % shape_.n_kv_layers());
    }

    void store_kv(const float* key, const float* value, uint8_t* block, int place) const {
        const int dim = shape_.head_dim;
        alignas(64) int16_t rounded[kMaxHeadDim];
        const float key_scale = kernels_.quantize(key, dim, kKeyLength, rounded);
        for (int d = 0; d < dim; d += 2) {
            std::memcpy(block + (size_t(d / 2) * kKvBlock + place) * 4, rounded + d, 4);
        }
        const float no_limit = std::numeric_limits<float>::max();
        const float value_scale = kernels_.quantize(value, dim, no_limit, rounded);
        auto* values = reinterpret_cast<int16_t*>(block + KvHeadBlock::values_at(dim)) +
                       size_t(place / 2) * dim * 2 + place % 2;
        for (int d = 0; d < dim; d++) values[d * 2] = rounded[d];
        std::memcpy(block + KvHeadBlock::key_scales_at(dim) + place * 4, &key_scale, 4);
        std::memcpy(block + KvHeadBlock::value_scales_at(dim) + place * 4, &value_scale, 4);
    }

    void attend(int thread, int layer) {
        const Stopwatch stopwatch(c_.times_[thread].seconds[kAttention]);
        c_.pool_.share(thread, int(tasks_.size()), [&](int index) {
            attend_tile(thread, layer, tasks_[index]);
        });
    }

    void attend_tile(int thread, int layer, const AttentionTask& task) const {
        const Chunk& chunk = step_.chunks[task.chunk];
        const int group = group_size(), window = shape_.windows[layer];
        AttentionTile tile;
        tile.n_rows = task.last - task.first;
        tile.head_dim = shape_.head_dim;
        for (int i = 0; i < tile.n_rows; i++) {
            const int row = chunk.first_row + (task.first + i) / group;
            const int head = task.kv_head * group + (task.first + i) % group;
            tile.queries[i] = query(row, head);
            tile.query_scales[i] = c_.query_scales_.floats()[size_t(row) * shape_.n_head + head];
            tile.n_keys[i] = shape_.is_encoder ? chunk.n_rows : positions_[row] + 1;
            tile.first_key[i] = window ? std::max(0, tile.n_keys[i] - window) : 0;
            tile.outputs[i] = attended(row) + head * shape_.head_dim;
        }
        tile.cache = c_.cache_.bytes() + layer_offset(layer) +
                     KvHeadBlock::n_bytes(shape_.head_dim) * task.kv_head;
        tile.block_stride = shape_.kv_block_bytes();
        tile.blocks = chunk.blocks;
        tile.softcap = shape_.attention_softcap;
        tile.scores_stride = round_up(c_.options_.max_tokens, kKvBlock);
        tile.scores = c_.scores_.floats() + tile.scores_stride * kScoreRows * thread;
        kernels_.attend(tile);
    }

    void finish_layer(const Team& team, const Rows& rows, int index) const {
        const Layer& layer = model_.layer(index);
        encode(team, rows, layer.output, 0, [&](int row) { return attended(row); });
        add_product(team, rows, layer.output, layer.output_bias, layer.post_attention_norm);
        if (shape_.is_encoder) {
            normalize(team, rows, layer.attention_norm, layer.attention_norm_bias);
            feed_forward_ungated(team, rows, layer);
            normalize(team, rows, layer.ffn_norm, layer.ffn_norm_bias);
        } else {
            feed_forward(team, rows, layer);
        }
    }

    void feed_forward_ungated(const Team& team, const Rows& rows, const Layer& layer) const {
        alignas(64) float ones[kStripRows * kPanel];
        std::fill(std::begin(ones), std::end(ones), 1.0f);
        encode(team, rows, layer.up, 0, [&](int row) { return x(row); });
        multiply(team, rows, {&layer.up}, 0, [&](int, int i, int n, int output, float* sums) {
            for (int r = 0; r < n && layer.up_bias.bytes(); r++) {
                add_panel(sums + r * kPanel, layer.up_bias.floats() + output);
            }
            kernels_.gate(shape_.gate, sums, ones, n * kPanel, sums);
            for (int r = 0; r < n; r++) {
                std::memcpy(hidden(rows.scratch + i + r) + output, sums + r * kPanel, kPanel * 4);
            }
        });
        encode(team, rows, layer.down, 0,
               [&](int row) { return hidden(rows.scratch + row - rows.first); });
        add_product(team, rows, layer.down, layer.down_bias, Buffer());
    }

    void feed_forward(const Team& team, const Rows& rows, const Layer& layer) const {
        const auto source = [&](int row) { return normed(team.thread, row, layer.ffn_norm); };
        encode(team, rows, layer.gate, 0, source);
        const bool is_shared = takes_same(layer.gate, layer.up);
        if (!is_shared) encode(team, rows, layer.up, 1, source);
        multiply(team, rows, {&layer.gate}, 0, [&](int, int i, int n, int output, float* gates) {
            alignas(64) float ups[kStripRows * kPanel];
            const int which = is_shared ? 0 : 1;
            kernels_.multiply(layer.up.coding, layer.up.panel(output / kPanel),
                              tile(which, rows.scratch + i), c_.tile_stride_,
                              layer.up.n_superblocks(), n, ups);
            kernels_.gate(shape_.gate, gates, ups, n * kPanel, gates);
            for (int r = 0; r < n; r++) {
                std::memcpy(hidden(rows.scratch + i + r) + output, gates + r * kPanel, kPanel * 4);
            }
        });
        encode(team, rows, layer.down, 0,
               [&](int row) { return hidden(rows.scratch + row - rows.first); });
        add_product(team, rows, layer.down, Buffer(), layer.post_ffn_norm);
    }

    void give_hidden(int thread) const {
        c_.pool_.share(thread, int(step_.outputs.size()), [&](int i) {
            const float* states = x(step_.outputs[i]);
            if (!shape_.is_encoder) {
                float* out = row_buffer(thread);
                kernels_.rms_norm(states, model_.output_norm(), shape_.n_embd, shape_.norm_eps, out);
                states = out;
            }
            std::memcpy(out_ + stride_ * i, states, size_t(shape_.n_embd) * sizeof(float));
        });
    }

    // Logits of the rows that want them, some rows at a time.
    void predict(int thread) const {
        const int n_outputs = int(step_.outputs.size());
        const int n_most = kBlockRows * c_.pool_.size();
        const Team all{&c_.pool_, thread, false};
        for (int first = 0; first < n_outputs; first += n_most) {
            const Rows rows{first, std::min(first + n_most, n_outputs), 0};
            encode(all, rows, model_.head(), 0, [&](int i) {
                float* out = row_buffer(thread);
                kernels_.rms_norm(x(step_.outputs[i]), model_.output_norm(), shape_.n_embd,
                                  shape_.norm_eps, out);
                return out;
            });
            const auto store = [&](int, int i, int n, int output, float* sums) {
                for (int r = 0; r < n; r++) {
                    float* out = out_ + stride_ * (first + i + r) + output;
                    std::memcpy(out, sums + r * kPanel, kPanel * 4);
                    if (shape_.logit_softcap > 0) cap(out);
                }
            };
            multiply(all, rows, {&model_.head()}, 0, store);
        }
    }

    void cap(float* logits) const {
        const float limit = shape_.logit_softcap;
        for (int i = 0; i < kPanel; i++) logits[i] = limit * std::tanh(logits[i] / limit);
    }

    Context& c_;
    const Model& model_;
    const Shape& shape_;
    const Kernels& kernels_;
    const Step& step_;
    float* out_;
    size_t stride_;
    int n_rows_;
    bool is_split_by_rows_;
    int block_rows_;
    std::vector<int> positions_, chunk_of_;
    std::vector<AttentionTask> tasks_;
};

Context::Context(const Model& model, ContextOptions options)
    : model_(model), options_(std::move(options)),
      pool_(options_.n_threads, options_.stack_bytes, options_.cores, options_.work_stealing) {
    const Shape& s = model.shape();
    times_.resize(pool_.size());
    for (const auto& kind : options_.rope_frequencies) {
        if (int(kind.size()) != s.n_rot / 2) throw std::invalid_argument("rope frequencies");
    }
    for (int kind : s.rope_kinds) {
        if (kind < 0 || kind >= int(options_.rope_frequencies.size())) {
            throw std::invalid_argument("rope kind");
        }
    }
    cache_ = Buffer(s.kv_block_bytes() * options_.n_blocks);
    const size_t n_rows = round_up(options_.max_rows, kTileRows);
    const size_t n_scratch = size_t(kBlockRows) * pool_.size(), n_threads = pool_.size();
    const auto floats = [](size_t n, size_t width) { return Buffer(n * width * sizeof(float)); };
    x_ = floats(n_rows, row_stride(s.n_embd));
    queries_ = Buffer(n_rows * s.query_width() * sizeof(int16_t));
    query_scales_ = floats(n_rows, s.n_head);
    attended_ = floats(n_rows, row_stride(s.query_width()));
    const size_t n_angles = size_t(s.n_rot / 2) * options_.rope_frequencies.size();
    cosines_ = floats(options_.max_rows, n_angles);
    sines_ = floats(options_.max_rows, n_angles);
    projected_ = floats(n_scratch, row_stride(s.query_width() + 2 * s.kv_width()));
    hidden_ = floats(n_scratch, row_stride(s.n_ff));
    summed_ = floats(n_scratch, row_stride(s.n_embd));
    tile_stride_ = tiles_bytes(model.head());
    for (int i = 0; i < s.n_layer; i++) {
        const Layer& layer = model.layer(i);
        for (const Matrix* m : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up,
                                &layer.down}) {
            tile_stride_ = std::max(tile_stride_, tiles_bytes(*m));
        }
    }
    for (Buffer& tiles : tiles_) tiles = Buffer(tile_stride_ * (n_scratch / kTileRows));
    row_ = floats(n_threads, row_stride(s.n_embd));
    scores_ = floats(n_threads * kScoreRows, round_up(options_.max_tokens, kKvBlock));
}

void Context::execute(const Step& step, float* out, size_t stride) {
    check(step, stride);
    if (step.tokens.empty()) return;
    Work work(*this, step, out, stride);
    const Kernels& kernels = model_.kernels();
    pool_.run([&](int thread) {
        kernels.begin_step();
        work.run(thread);
        kernels.end_step();
    });
}

void Context::copy_block(int from, int to) {
    if (std::min(from, to) < 0 || std::max(from, to) >= options_.n_blocks) {
        throw std::invalid_argument("there is no such block");
    }
    const size_t n = model_.shape().kv_block_bytes();
    std::memcpy(cache_.bytes() + n * to, cache_.bytes() + n * from, n);
}

double Context::seconds(Operation operation) const {
    double sum = 0;
    for (const Times& times : times_) sum += times.seconds[operation];
    return sum / double(times_.size());
}

// Nothing that comes from outside may make native code read or write where it should not.
void Context::check(const Step& step, size_t stride) const {
    const auto expect = [](bool holds, const char* problem) {
        if (!holds) throw std::invalid_argument(problem);
    };
    const int n_rows = int(step.tokens.size());
    expect(n_rows <= options_.max_rows, "more tokens than a step may have");
    const Shape& shape = model_.shape();
    if (step.wants_hidden) {
        expect(stride >= size_t(shape.n_embd), "hidden states are too narrow");
    } else {
        expect(!shape.is_encoder, "an encoder has no logits");
        expect(stride % kPanel == 0 && stride >= size_t(shape.n_vocab), "logits are too narrow");
    }
    for (int token : step.tokens) {
        expect(token >= 0 && token < shape.n_vocab, "a token is not in the vocabulary");
    }
    int next = 0;
    for (const Chunk& chunk : step.chunks) {
        expect(chunk.first_row == next && chunk.n_rows > 0, "chunks are not in order");
        next += chunk.n_rows;
        expect(chunk.start >= 0 && chunk.start <= options_.max_tokens - chunk.n_rows,
               "a sequence is longer than the context");
        const int n_blocks = ceil_div(chunk.start + chunk.n_rows, kKvBlock);
        for (int i = 0; i < n_blocks; i++) {
            expect(chunk.blocks[i] >= 0 && chunk.blocks[i] < options_.n_blocks, "there is no such block");
        }
    }
    expect(next == n_rows, "chunks do not cover the tokens");
    const int max_outputs = step.wants_hidden ? options_.max_rows : options_.max_outputs;
    expect(int(step.outputs.size()) <= max_outputs, "more outputs than a step may have");
    for (int row : step.outputs) expect(row >= 0 && row < n_rows, "an output is no row of the step");
    if (shape.is_encoder) check_encoding(step);
}

void Context::check_encoding(const Step& step) const {
    const Shape& shape = model_.shape();
    const auto expect = [](bool holds, const char* problem) {
        if (!holds) throw std::invalid_argument(problem);
    };
    expect(step.token_types.size() == step.tokens.size(), "a token type for each token");
    for (int type : step.token_types) {
        expect(type >= 0 && type < shape.n_token_types, "there is no such token type");
    }
    for (const Chunk& chunk : step.chunks) {
        expect(chunk.start == 0, "an encoder takes a text at once");
        expect(chunk.n_rows <= shape.n_positions, "a text is longer than the encoder's positions");
    }
}

}  // namespace llamaherd
