// A decoder: its shape, and its weights in packed form.
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
    size_t kv_block_bytes() const {
        return size_t(n_layer) * n_head_kv * KvHeadBlock::n_bytes(head_dim);
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

  private:
    void check_shape() const;
    Matrix pack(ThreadPool& pool, const Tensors& tensors, const std::string& name, int n_outputs,
                int n_inputs, const std::vector<int32_t>& order = {});
    Buffer vector(const Tensors& tensors, const std::string& name, int n, bool is_optional,
                  const std::vector<int32_t>& order = {});
    std::vector<int32_t> head_order(int n_heads) const;
    Layer load_layer(ThreadPool& pool, const Tensors& tensors, int index);

    Shape shape_;
    const Kernels& kernels_;
    Tensor embeddings_{};
    std::vector<Layer> layers_;
    Buffer output_norm_;
    Matrix head_;
    size_t n_bytes_ = 0;
};

}  // namespace llamaherd
