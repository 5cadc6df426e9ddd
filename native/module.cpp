// The Python module llamaherd._native: arrays in, arrays out, no policy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <stdexcept>

#include "context.h"
#include "kernels.h"
#include "matrix.h"
#include "model.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace llamaherd {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
// Type number, bytes, outputs, inputs.
using TensorTuple = std::tuple<int, Bytes, int, int>;

Tensors views_of(const std::map<std::string, TensorTuple>& tensors) {
    Tensors views;
    for (const auto& [name, tensor] : tensors) {
        const auto& [type, bytes, n_outputs, n_inputs] = tensor;
        views[name] = {GgmlType(type), bytes.data(), bytes.size(), n_outputs, n_inputs};
    }
    return views;
}

void construct_model(Model* self, const Shape& shape, std::map<std::string, TensorTuple> tensors,
                     int n_threads, const std::string& isa) {
    const Tensors views = views_of(tensors);
    const Kernels& kernels = kernels_for(isa.c_str());
    nb::gil_scoped_release release;
    new (self) Model(shape, views, kernels, n_threads);
}

Step make_step(Ints tokens, Ints sizes, Ints starts, Tables tables, Ints outputs, Floats out) {
    const size_t n_chunks = sizes.shape(0);
    if (starts.shape(0) != n_chunks || tables.shape(0) != n_chunks ||
        out.shape(0) < outputs.shape(0)) {
        throw std::invalid_argument("the parts of the step do not fit together");
    }
    Step step;
    step.tokens.assign(tokens.data(), tokens.data() + tokens.size());
    step.outputs.assign(outputs.data(), outputs.data() + outputs.size());
    int row = 0;
    for (size_t i = 0; i < n_chunks; i++) {
        const int32_t* blocks = tables.data() + i * tables.shape(1);
        const int64_t n_tokens = int64_t(starts.data()[i]) + sizes.data()[i];
        if (n_tokens > int64_t(tables.shape(1)) * kKvBlock) {
            throw std::invalid_argument("a sequence has fewer blocks than tokens");
        }
        step.chunks.push_back({row, sizes.data()[i], starts.data()[i], blocks});
        row += sizes.data()[i];
    }
    return step;
}

void execute(Context& context, Ints tokens, Ints sizes, Ints starts, Tables tables, Ints outputs,
             Floats logits) {
    const Step step = make_step(tokens, sizes, starts, tables, outputs, logits);
    nb::gil_scoped_release release;
    context.execute(step, logits.data(), logits.shape(1));
}

// `token_types` is empty for a decoder.
void embed(Context& context, Ints tokens, Ints token_types, Ints sizes, Ints starts, Tables tables,
           Ints outputs, Floats hidden) {
    Step step = make_step(tokens, sizes, starts, tables, outputs, hidden);
    step.token_types.assign(token_types.data(), token_types.data() + token_types.size());
    step.wants_hidden = true;
    nb::gil_scoped_release release;
    context.execute(step, hidden.data(), hidden.shape(1));
}

nb::list isa_names() {
    nb::list names;
    for (const char* const* isa = available_isas(); *isa; isa++) names.append(*isa);
    return names;
}

// Multiply-adds of 8-bit integers per second that `n_threads` cores reach.
double int8_peak(int n_threads, double seconds, const std::string& isa) {
    const Kernels& kernels = kernels_for(isa.c_str());
    nb::gil_scoped_release release;
    ThreadPool pool(n_threads, 0, {}, false);
    std::vector<double> rates(n_threads);
    pool.run([&](int thread) {
        using Clock = std::chrono::steady_clock;
        pool.barrier(thread);
        const auto begin = Clock::now();
        int64_t done = 0;
        double elapsed = 0;
        while (elapsed < seconds) {
            done += kernels.int8_peak(100000);
            elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
        }
        rates[thread] = double(done) / elapsed;
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

nb::ndarray<nb::numpy, float, nb::ndim<1>> dequantized(int type, Bytes row, int n_values) {
    if (row.size() < row_bytes(GgmlType(type), n_values)) throw std::invalid_argument("too few bytes");
    float* values = new float[n_values];
    nb::capsule owner(values, [](void* at) noexcept { delete[] static_cast<float*>(at); });
    dequantize_row(GgmlType(type), row.data(), n_values, values);
    const size_t shape[] = {size_t(n_values)};
    return nb::ndarray<nb::numpy, float, nb::ndim<1>>(values, 1, shape, owner);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "llamaherd's CPU engine: packed weights, kernels, a paged KV cache.";
    m.attr("KV_BLOCK") = kKvBlock;
    m.attr("PANEL") = kPanel;
    m.def("isa_names", isa_names);
    m.def("default_isa", [](const std::string& isa) { return kernels_for(isa.c_str()).isa; },
          "isa"_a = "");
    m.def("int8_peak", int8_peak, "n_threads"_a, "seconds"_a = 0.2, "isa"_a = "");
    m.def("row_bytes", [](int type, int n_values) { return row_bytes(GgmlType(type), n_values); },
          "type"_a, "n_values"_a);
    m.def("dequantize", dequantized, "type"_a, "row"_a, "n_values"_a);

    nb::class_<Shape>(m, "Shape")
        .def(nb::init<>())
        .def_rw("is_encoder", &Shape::is_encoder)
        .def_rw("n_positions", &Shape::n_positions)
        .def_rw("n_token_types", &Shape::n_token_types)
        .def_rw("n_layer", &Shape::n_layer)
        .def_rw("n_embd", &Shape::n_embd)
        .def_rw("n_head", &Shape::n_head)
        .def_rw("n_head_kv", &Shape::n_head_kv)
        .def_rw("head_dim", &Shape::head_dim)
        .def_rw("n_ff", &Shape::n_ff)
        .def_rw("n_vocab", &Shape::n_vocab)
        .def_rw("n_rot", &Shape::n_rot)
        .def_rw("rotates_neighbors", &Shape::rotates_neighbors)
        .def_prop_rw("uses_gelu", [](const Shape& s) { return s.gate == Gate::kGelu; },
                     [](Shape& s, bool gelu) { s.gate = gelu ? Gate::kGelu : Gate::kSilu; })
        .def_rw("norm_eps", &Shape::norm_eps)
        .def_rw("embedding_scale", &Shape::embedding_scale)
        .def_rw("attention_scale", &Shape::attention_scale)
        .def_rw("attention_softcap", &Shape::attention_softcap)
        .def_rw("logit_softcap", &Shape::logit_softcap)
        .def_rw("windows", &Shape::windows)
        .def_rw("rope_kinds", &Shape::rope_kinds);

    nb::class_<Model>(m, "Model")
        .def("__init__", construct_model, "shape"_a, "tensors"_a, "n_threads"_a, "isa"_a = "",
             nb::keep_alive<1, 3>())
        .def_prop_ro("n_bytes", &Model::n_bytes)
        .def_prop_ro("kv_block_bytes", [](const Model& m) { return m.shape().kv_block_bytes(); })
        .def_prop_ro("isa", [](const Model& m) { return m.kernels().isa; });

    nb::class_<ContextOptions>(m, "ContextOptions")
        .def(nb::init<>())
        .def_rw("n_blocks", &ContextOptions::n_blocks)
        .def_rw("max_rows", &ContextOptions::max_rows)
        .def_rw("max_outputs", &ContextOptions::max_outputs)
        .def_rw("max_tokens", &ContextOptions::max_tokens)
        .def_rw("n_threads", &ContextOptions::n_threads)
        .def_rw("stack_bytes", &ContextOptions::stack_bytes)
        .def_rw("cores", &ContextOptions::cores)
        .def_rw("work_stealing", &ContextOptions::work_stealing)
        .def_rw("rope_scale", &ContextOptions::rope_scale)
        .def_rw("rope_frequencies", &ContextOptions::rope_frequencies);

    nb::class_<Context>(m, "Context")
        .def(nb::init<const Model&, ContextOptions>(), nb::keep_alive<1, 2>())
        .def("execute", execute, "tokens"_a, "sizes"_a, "starts"_a, "tables"_a, "outputs"_a,
             "logits"_a)
        .def("embed", embed, "tokens"_a, "token_types"_a, "sizes"_a, "starts"_a, "tables"_a,
             "outputs"_a, "hidden"_a)
        .def("copy_block", &Context::copy_block, "source"_a, "target"_a)
        .def("seconds", [](const Context& context) {
            nb::dict seconds;
            seconds["products"] = context.seconds(kProducts);
            seconds["attention"] = context.seconds(kAttention);
            seconds["encoding"] = context.seconds(kEncoding);
            return seconds;
        });
}

}  // namespace llamaherd
