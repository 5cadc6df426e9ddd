#include "model.h"

#include <stdexcept>

namespace llamaherd {
namespace {

const Tensor* find(const Tensors& tensors, const std::string& name) {
    const auto at = tensors.find(name);
    return at == tensors.end() ? nullptr : &at->second;
}

std::string dimensions(int n_outputs, int n_inputs) {
    return std::to_string(n_outputs) + " x " + std::to_string(n_inputs);
}

const Tensor& require(const Tensors& tensors, const std::string& name, int n_outputs,
                      int n_inputs) {
    const Tensor* tensor = find(tensors, name);
    if (!tensor) throw std::invalid_argument("tensor " + name + " is missing");
    if (tensor->n_outputs != n_outputs || tensor->n_inputs != n_inputs) {
        throw std::invalid_argument("tensor " + name + " is " +
                                    dimensions(tensor->n_outputs, tensor->n_inputs) +
                                    " instead of " + dimensions(n_outputs, n_inputs));
    }
    if (tensor->n_bytes < row_bytes(tensor->type, n_inputs) * size_t(n_outputs)) {
        throw std::invalid_argument("tensor " + name + " is cut short");
    }
    return *tensor;
}

}  // namespace

Model::Model(Shape shape, const Tensors& tensors, const Kernels& kernels, int n_threads)
    : shape_(std::move(shape)), kernels_(kernels) {
    check_shape();
    ThreadPool pool(n_threads, 0, {}, true);
    embeddings_ = require(tensors, "token_embd", shape_.n_vocab, shape_.n_embd);
    if (shape_.is_encoder) load_embeddings(tensors);
    else output_norm_ = vector(tensors, "output_norm", shape_.n_embd, false);
    for (int i = 0; i < shape_.n_layer; i++) layers_.push_back(load_layer(pool, tensors, i));
    if (shape_.is_encoder) return;
    const char* head = find(tensors, "output") ? "output" : "token_embd";
    head_ = pack(pool, tensors, head, shape_.n_vocab, shape_.n_embd);
}

void Model::embed(int token, float* out) const {
    const size_t stride = row_bytes(embeddings_.type, shape_.n_embd);
    dequantize_row(embeddings_.type, embeddings_.data + stride * token, shape_.n_embd, out);
    if (shape_.embedding_scale == 1.0f) return;
    for (int i = 0; i < shape_.n_embd; i++) out[i] *= shape_.embedding_scale;
}

void Model::embed(int token, int position, int type, float* out) const {
    embed(token, out);
    const float* place = positions_.floats() + size_t(position) * shape_.n_embd;
    const float* kind = token_types_.floats() + size_t(type) * shape_.n_embd;
    for (int i = 0; i < shape_.n_embd; i++) out[i] += kind[i] + place[i];
}

void Model::load_embeddings(const Tensors& tensors) {
    positions_ = table(tensors, "position_embd", shape_.n_positions);
    token_types_ = table(tensors, "token_types", shape_.n_token_types);
    embedding_norm_ = vector(tensors, "token_embd_norm", shape_.n_embd, false);
    embedding_norm_bias_ = vector(tensors, "token_embd_norm.bias", shape_.n_embd, false);
}

Buffer Model::table(const Tensors& tensors, const std::string& name, int n_rows) {
    const Tensor& tensor = require(tensors, name, n_rows, shape_.n_embd);
    const size_t stride = row_bytes(tensor.type, shape_.n_embd);
    Buffer buffer(size_t(n_rows) * shape_.n_embd * sizeof(float));
    for (int i = 0; i < n_rows; i++) {
        dequantize_row(tensor.type, tensor.data + stride * i, shape_.n_embd,
                       buffer.floats() + size_t(i) * shape_.n_embd);
    }
    n_bytes_ += buffer.size();
    return buffer;
}

void Model::check_shape() const {
    const Shape& s = shape_;
    const auto expect = [](bool holds, const std::string& problem) {
        if (!holds) throw std::invalid_argument(problem);
    };
    constexpr int kMost = 1 << 20;
    for (int n : {s.n_layer, s.n_embd, s.n_head, s.n_head_kv, s.n_ff, s.head_dim}) {
        expect(n > 0 && n <= kMost, "a size of the model is " + std::to_string(n));
    }
    expect(s.n_vocab > 0 && s.n_vocab <= kMost * 16, "the vocabulary is empty or too large");
    expect(s.head_dim % 16 == 0 && s.head_dim <= kMaxHeadDim,
           "heads of " + std::to_string(s.head_dim) + " values are not supported");
    expect(s.n_head % s.n_head_kv == 0, "query heads do not divide into key heads");
    expect(s.n_rot >= 0 && s.n_rot % 2 == 0 && s.n_rot <= s.head_dim, "rotary size is wrong");
    expect(int(s.windows.size()) == s.n_layer && int(s.rope_kinds.size()) == s.n_layer,
           "a window and a rope kind for each layer");
    if (!s.is_encoder) return;
    expect(s.n_embd % 16 == 0, "an encoder's width is no multiple of 16");
    expect(s.n_positions > 0 && s.n_positions <= kMost, "an encoder without positions");
    expect(s.n_token_types > 0 && s.n_token_types <= kMost, "an encoder without token types");
}

Matrix Model::pack(ThreadPool& pool, const Tensors& tensors, const std::string& name,
                   int n_outputs, int n_inputs, const std::vector<int32_t>& order) {
    const Tensor& tensor = require(tensors, name, n_outputs, n_inputs);
    Matrix matrix = make_matrix(tensor.type, n_outputs, n_inputs);
    const int32_t* rows = order.empty() ? nullptr : order.data();
    pool.run([&](int thread) {
        pool.share(thread, matrix.n_panels(), [&](int panel) {
            pack_panels(matrix, tensor.type, tensor.data, rows, panel, panel + 1);
        });
    });
    n_bytes_ += matrix.data.size();
    return matrix;
}

Buffer Model::vector(const Tensors& tensors, const std::string& name, int n, bool is_optional,
                     const std::vector<int32_t>& order) {
    if (is_optional && !find(tensors, name)) return Buffer();
    const Tensor& tensor = require(tensors, name, 1, n);
    std::vector<float> values(n);
    dequantize_row(tensor.type, tensor.data, n, values.data());
    Buffer buffer(size_t(round_up(n, kSuperblock)) * sizeof(float));
    for (int i = 0; i < n; i++) buffer.floats()[i] = values[order.empty() ? i : order[i]];
    return buffer;
}

// Puts the first of each rotary pair before the second, so that one kernel serves both kinds.
std::vector<int32_t> Model::head_order(int n_heads) const {
    std::vector<int32_t> order;
    if (!shape_.rotates_neighbors) return order;
    const int half = shape_.n_rot / 2;
    for (int head = 0; head < n_heads; head++) {
        for (int i = 0; i < shape_.head_dim; i++) {
            const int from = i < half ? 2 * i : i < shape_.n_rot ? 2 * (i - half) + 1 : i;
            order.push_back(head * shape_.head_dim + from);
        }
    }
    return order;
}

Layer Model::load_layer(ThreadPool& pool, const Tensors& tensors, int index) {
    const std::string name = "blk." + std::to_string(index) + ".";
    const Shape& s = shape_;
    const std::vector<int32_t> q_order = head_order(s.n_head), k_order = head_order(s.n_head_kv);
    const auto matrix = [&](const char* part, int n_outputs, int n_inputs,
                            const std::vector<int32_t>& order = {}) {
        return pack(pool, tensors, name + part, n_outputs, n_inputs, order);
    };
    const auto floats = [&](const char* part, int n, const std::vector<int32_t>& order = {}) {
        return vector(tensors, name + part, n, true, order);
    };
    Layer layer;
    layer.attention_norm = vector(tensors, name + "attn_norm", s.n_embd, false);
    layer.q = matrix("attn_q", s.query_width(), s.n_embd, q_order);
    layer.k = matrix("attn_k", s.kv_width(), s.n_embd, k_order);
    layer.v = matrix("attn_v", s.kv_width(), s.n_embd);
    layer.output = matrix("attn_output", s.n_embd, s.query_width());
    layer.q_bias = floats("attn_q.bias", s.query_width(), q_order);
    layer.k_bias = floats("attn_k.bias", s.kv_width(), k_order);
    layer.v_bias = floats("attn_v.bias", s.kv_width());
    layer.output_bias = floats("attn_output.bias", s.n_embd);
    layer.q_norm = floats("attn_q_norm", s.head_dim);
    layer.k_norm = floats("attn_k_norm", s.head_dim);
    layer.post_attention_norm = floats("post_attention_norm", s.n_embd);
    layer.ffn_norm = vector(tensors, name + "ffn_norm", s.n_embd, false);
    if (s.is_encoder) {
        layer.attention_norm_bias = vector(tensors, name + "attn_norm.bias", s.n_embd, false);
        layer.ffn_norm_bias = vector(tensors, name + "ffn_norm.bias", s.n_embd, false);
        layer.up_bias = floats("ffn_up.bias", s.n_ff);
        layer.down_bias = floats("ffn_down.bias", s.n_embd);
    } else {
        layer.gate = matrix("ffn_gate", s.n_ff, s.n_embd);
    }
    layer.up = matrix("ffn_up", s.n_ff, s.n_embd);
    layer.down = matrix("ffn_down", s.n_embd, s.n_ff);
    layer.post_ffn_norm = floats("post_ffw_norm", s.n_embd);
    return layer;
}

}  // namespace llamaherd
