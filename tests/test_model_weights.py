"""Loading models: facts, and a clear word for every wrong file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamaherd.errors import ConfigError, ModelLoadError, ModelNotFound
from llamaherd.llama import library
from llamaherd.llama.binding import C
from llamaherd.llama.gguf_file import read_header
from llamaherd.llama.weights import Weights, quantization_name
from tiny_models import CHATML, TinyShape, make_bpe_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = TinyShape(n_embd=48, n_layer=3, n_head=6, n_head_kv=3, n_ff=80)
    return make_bpe_model(tmp_path_factory.mktemp("model") / "odd sized.gguf", shape=shape)


def test_facts_are_the_same_with_and_without_weights(model: Path) -> None:
    with Weights.load(model) as full, Weights.load(model, vocab_only=True) as vocabulary:
        facts = full.facts()
        assert vocabulary.facts() == facts
        assert full.chat_template() == vocabulary.chat_template() == CHATML
        assert full.metadata()["llama.block_count"] == "3"
    assert (facts.architecture, facts.quantization, facts.name) == (
        "llama",
        "F32",
        "tiny test model",
    )
    assert (facts.n_embd, facts.n_layer, facts.n_head, facts.n_head_kv) == (48, 3, 6, 3)
    assert facts.n_ctx_train == 512
    assert facts.has_decoder
    assert not facts.has_encoder
    assert not facts.is_recurrent
    assert facts.n_params * 4 == pytest.approx(facts.size_bytes, rel=0.01)


def test_closing_twice_is_harmless_and_use_after_it_is_an_error(model: Path) -> None:
    weights = Weights.load(model)
    weights.close()
    weights.close()
    assert weights.is_closed
    with pytest.raises(ModelLoadError, match="was closed"):
        weights.metadata()


def test_freed_once_and_only_when_nobody_holds_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[int] = []
    free = C.llama_model_free
    monkeypatch.setattr(C, "llama_model_free", lambda handle: freed.append(handle) or free(handle))
    weights = Weights.load(model)
    held = weights.hold()
    weights.close()
    assert not freed
    del held
    assert len(freed) == 1
    weights = Weights.load(model)
    del weights
    assert len(freed) == 2


LOOK_ALIKES = {
    b"": "is empty",
    b"<!DOCTYPE html>": "web page",
    b"version https://git-lfs.github.com/spec/v1": "git lfs pull",
    b"PK\x03\x04....": "PyTorch",
    b'\x10\0\0\0\0\0\0\0{"a":1}': "safetensors",
    b"something else": "starts with b'something else'",
    b"GGUF\x03\0\0\0": "cut short",
}


@pytest.mark.parametrize("content", LOOK_ALIKES)
def test_a_file_that_is_no_model_is_named_for_what_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=LOOK_ALIKES[content]):
        read_header(path)
    with pytest.raises(ModelLoadError):
        Weights.load(path)


def test_a_cut_file_says_that_it_is_cut(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelLoadError, match="cut short, download it again"):
        Weights.load(path)
    path.write_bytes(content[:5000])
    with pytest.raises(ModelLoadError, match="cut short"):
        read_header(path)


def test_folders_and_missing_files_show_what_is_there(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"is a folder.*odd sized\.gguf"):
        Weights.load(model.parent)
    with pytest.raises(ModelNotFound, match=r"that folder holds: odd sized\.gguf"):
        Weights.load(model.with_name("other.gguf"))
    with pytest.raises(ModelNotFound, match="does not exist either"):
        Weights.load(tmp_path / "no" / "model.gguf")


def test_wrong_options_are_named(model: Path) -> None:
    for wrong in (-2, 1.5, True):
        with pytest.raises(ConfigError, match="gpu_layers"):
            Weights.load(model, gpu_layers=wrong)  # type: ignore[arg-type]
    if not library.supports_gpu_offload():
        with pytest.raises(ConfigError, match="no GPU support"):
            Weights.load(model, gpu_layers=1)
    with pytest.raises(ModelLoadError, match="LoRA adapter .* must be made for this model"):
        Weights.load(model, lora=[(model, 0.5)])


def test_quantizations_have_their_usual_names() -> None:
    assert [quantization_name(n) for n in (0, 1, 7, 15, 18, 9999, None)] == [
        "F32",
        "F16",
        "Q8_0",
        "Q4_K_M",
        "Q6_K",
        "unknown",
        "unknown",
    ]


@pytest.mark.parametrize("verbosity", [0, 2])
def test_llama_cpp_is_silent_unless_asked(model: Path, verbosity: int) -> None:
    code = (
        "import sys\nfrom llamaherd.llama.weights import Weights\n"
        "Weights.load(sys.argv[1], verbosity=int(sys.argv[2])).close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), str(verbosity)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == ""
    assert bool(done.stderr) == (verbosity > 0)


def test_the_library_tells_about_itself(caplog: pytest.LogCaptureFixture) -> None:
    assert library.devices()
    assert isinstance(library.cpu_features(), list)
    library._warn_if_untested(library.library_version())
    assert caplog.records == []
    library._warn_if_untested("0.2.90")
    assert "outside the tested range" in caplog.text


@pytest.mark.parametrize(
    ("compiler", "features", "is_broken"),
    [
        (b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", ["AVX2", "AMX_INT8"], True),
        (b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", ["AVX2"], False),
        (b"GCC: (GNU) 11.2.1 20220127", ["AMX_INT8"], True),
        (b"GCC: (Ubuntu 12.4.0-1) 12.4.0", ["AMX_INT8"], False),
        (b"GCC: (Ubuntu 13.2.0-23) 13.2.0", ["AMX_INT8"], True),
        (b"GCC: (Debian 14.2.0-19) 14.2.0", ["AMX_INT8"], False),
        (b"clang version 18.1.8", ["AMX_INT8"], False),
    ],
)
def test_amx_is_left_out_where_the_compiler_broke_it(
    compiler: bytes,
    features: list[str],
    is_broken: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp would end the process at the first quantized product."""
    (tmp_path / "libggml-cpu.so").write_bytes(b"\x7fELF code\x00" + compiler + b"\x00")
    monkeypatch.setattr(library, "libggml", SimpleNamespace(_name=str(tmp_path / "libggml.so")))
    monkeypatch.setattr(library, "cpu_features", lambda: features)
    library.has_broken_amx.cache_clear()
    try:
        assert library.has_broken_amx() is is_broken
    finally:
        library.has_broken_amx.cache_clear()
