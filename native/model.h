// A decoder, or an encoder of BERT's kind: its shape, and its weights in packed form.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels.h"
#include "matrix.h"
#include "memory.h"
#include "thread_pool.h"

namespace llamaherd {

struct Shape {
    // BERT's kind: learned positions, every token sees all of its text, layer norms with a bias
    // after attention and after a feed-forward part without a gate, and no head.
    bool is_encoder = false;
    int n_positions = 0;             // an encoder's longest text
    int n_token_types = 0;           // an encoder's kinds of segments
    int n_layer = 0;
    int n_embd = 0;
    int n_head = 0;
    int n_head_kv = 0;
    int head_dim = 0;
    int n_ff = 0;
    int n_vocab = 0;
    int n_rot = 0;                   // dimensions of a head that rotary embeddings turn
    bool rotates_neighbors = false;  // pairs (2i, 2i + 1) instead of (i, i + n_rot / 2)
    Gate gate = Gate::kSilu;
    float norm_eps = 0;
    float embedding_scale = 1;
    float attention_scale = 1;
    float attention_softcap = 0;
    float logit_softcap = 0;
    std::vector<int> windows;        // per layer: tokens that a query sees, 0 for all
    std::vector<int> rope_kinds;     // per layer: which of the frequency tables it uses

    int query_width() const { return n_head * head_dim; }
    int kv_width() const { return n_head_kv * head_dim; }
    // A text goes through an encoder at once, so that all layers use the same memory.
    int n_kv_layers() const { return is_encoder ? 1 : n_layer; }
    size_t kv_block_bytes() const {
        return size_t(n_kv_layers()) * n_head_kv * KvHeadBlock::n_bytes(head_dim);
    }
};

// A tensor in the mapped file: `n_outputs` rows of `n_inputs` values.
struct Tensor {
    GgmlType type;
    const uint8_t* data;
    size_t n_bytes;
    int n_outputs;
    int n_inputs;
};

using Tensors = std::map<std::string, Tensor>;

struct Layer {
    Matrix q, k, v, output, gate, up, down;
    // Padded with zeros; empty if the architecture has none.
    Buffer attention_norm, q_bias, k_bias, v_bias, output_bias, q_norm, k_norm, post_attention_norm;
    Buffer ffn_norm, post_ffn_norm;
    // An encoder's; its norms come after the parts that they are named for.
    Buffer attention_norm_bias, ffn_norm_bias, up_bias, down_bias;
};

class Model {
  public:
    // Packs the weights on `n_threads`. The tensors' memory must outlive the model: token
    // embeddings are read from it. Throws std::invalid_argument if anything does not fit.
    Model(Shape shape, const Tensors& tensors, const Kernels& kernels, int n_threads);

    const Shape& shape() const { return shape_; }
    const Kernels& kernels() const { return kernels_; }
    const Layer& layer(int index) const { return layers_[index]; }
    const float* output_norm() const { return output_norm_.floats(); }
    const Matrix& head() const { return head_; }
    size_t n_bytes() const { return n_bytes_; }
    void embed(int token, float* out) const;
    // An encoder's embedding of a token at a position, before its norm.
    void embed(int token, int position, int type, float* out) const;
    const float* embedding_norm() const { return embedding_norm_.floats(); }
    const float* embedding_norm_bias() const { return embedding_norm_bias_.floats(); }

  private:
    void check_shape() const;
    Matrix pack(ThreadPool& pool, const Tensors& tensors, const std::string& name, int n_outputs,
                int n_inputs, const std::vector<int32_t>& order = {});
    Buffer vector(const Tensors& tensors, const std::string& name, int n, bool is_optional,
                  const std::vector<int32_t>& order = {});
    std::vector<int32_t> head_order(int n_heads) const;
    Layer load_layer(ThreadPool& pool, const Tensors& tensors, int index);
    void load_embeddings(const Tensors& tensors);
    Buffer table(const Tensors& tensors, const std::string& name, int n_rows);

    Shape shape_;
    const Kernels& kernels_;
    Tensor embeddings_{};
    std::vector<Layer> layers_;
    Buffer output_norm_, embedding_norm_, embedding_norm_bias_, positions_, token_types_;
    Matrix head_;
    size_t n_bytes_ = 0;
};

}  // namespace llamaherd
