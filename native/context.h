// Computes steps: many rows of many sequences through the model, over a paged KV cache.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.h"
#include "model.h"
#include "thread_pool.h"

namespace llamaherd {

struct ContextOptions {
    int n_blocks = 0;        // blocks of kKvBlock tokens in the KV cache
    int max_rows = 0;        // tokens in one step
    int max_outputs = 0;     // rows of logits in one step
    int max_tokens = 0;      // of one sequence
    int n_threads = 1;
    size_t stack_bytes = 0;
    std::vector<int> cores;  // empty: wherever the system puts the threads
    bool work_stealing = true;
    float rope_scale = 1;    // of all sines and cosines
    std::vector<std::vector<double>> rope_frequencies;  // per kind, n_rot / 2 of them
};

// Tokens of one sequence that a step computes, as rows [first_row, first_row + n_rows).
struct Chunk {
    int first_row;
    int n_rows;
    int start;              // position of the first
    const int32_t* blocks;  // of the sequence, enough for all its tokens
};

struct Step {
    std::vector<int32_t> tokens;
    std::vector<int32_t> token_types;  // for an encoder; otherwise empty
    std::vector<Chunk> chunks;
    std::vector<int32_t> outputs;      // rows whose logits, or hidden states, are wanted
    bool wants_hidden = false;
};

// What a step's time goes to, with the waiting for other threads at the end of each.
enum Operation : int { kProducts, kAttention, kEncoding, kOperations };

class Context {
  public:
    // Throws std::bad_alloc, std::runtime_error (threads) or std::invalid_argument.
    Context(const Model& model, ContextOptions options);

    // Computes a step; row i of `out` is for outputs[i]. Rows are `stride` floats apart: for
    // logits a multiple of 16 and at least the vocabulary, for hidden states at least their width.
    // Throws std::invalid_argument if the step does not fit.
    void execute(const Step& step, float* out, size_t stride);

    void copy_block(int from, int to);

    // Seconds since the context was made, as the mean of the threads.
    double seconds(Operation operation) const;

  private:
    class Work;

    void check(const Step& step, size_t stride) const;
    void check_encoding(const Step& step) const;

    const Model& model_;
    const ContextOptions options_;
    ThreadPool pool_;
    Buffer cache_;
    // Per row of a step.
    Buffer x_, queries_, query_scales_, attended_, cosines_, sines_;
    // Per row that a thread has in hand; see Work.
    Buffer projected_, hidden_, summed_, tiles_[2];
    size_t tile_stride_ = 0;  // of the widest matrix, so that threads do not meet
    // Per thread.
    Buffer row_, scores_;
    struct alignas(128) Times {
        double seconds[kOperations] = {};
    };
    std::vector<Times> times_;
};

}  // namespace llamaherd
