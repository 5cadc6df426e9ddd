"""Where models come from, against a stand-in server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llamaherd.errors import ConfigError, DownloadError, ModelLoadError, ModelNotFound
from llamaherd.models import download, hub, ollama
from llamaherd.models.source import list_local, resolve
from tiny_models import make_bpe_model

REPO_FILES = ["README.md", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "mmproj-tiny.gguf"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves one model under several addresses, each with its own mishap."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests: list[tuple[str, str | None]] = []
        self.n_breaks = 0
        self.etag = '"v1"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        path = self.path.split("?")[0]
        if path == "/model.gguf":
            self.send_file(self.server.content)
        elif path == "/page.gguf":
            self.send_file(b"<html>Please log in</html>")
        elif path == "/moved.gguf":
            self.send_empty(302, Location="http://example.invalid/model.gguf")
        elif path.startswith("/status/"):
            self.send_empty(int(path.split("/")[2]))
        elif path.startswith("/api/models/org/tiny-GGUF/tree/"):
            self.send_json([{"type": "file", "path": f, "size": 1, "oid": "0"} for f in REPO_FILES])
        elif path.startswith("/api/models/org/gated/"):
            self.send_empty(403, **{"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/"):
            self.send_empty(404, **{"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/org/tiny-GGUF/resolve/"):
            self.send_file(self.server.content, **{"X-Repo-Commit": COMMIT})
        else:
            self.send_empty(404)

    def send_file(self, content: bytes, **headers: str) -> None:
        begin = 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") in (None, self.server.etag):
            begin = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(content) - begin))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.n_breaks > 0:
            self.server.n_breaks -= 1
            self.wfile.write(content[begin : begin + (len(content) - begin) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content[begin:])

    def send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_bpe_model(tmp_path_factory.mktemp("served") / "model.gguf").read_bytes()


@pytest.fixture
def server(content: bytes) -> Iterator[Server]:
    made = Server(content)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMAHERD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0.001)
    return tmp_path


# ── plain addresses ─────────────────────────────────────────────────────────────────────


def test_a_file_is_downloaded_once(server: Server) -> None:
    first = resolve(f"{server.url}/model.gguf")
    assert first.read_bytes() == server.content
    assert resolve(f"{server.url}/model.gguf") == first
    assert len(server.requests) == 1
    assert [p.name for p in first.parent.glob("*.part*")] == []
    assert (f"{server.url}/model.gguf", first) in list(download.list_cached())


def test_a_broken_download_goes_on_where_it_broke(server: Server) -> None:
    server.n_breaks = 2
    path = resolve(f"{server.url}/model.gguf")
    assert path.read_bytes() == server.content
    half = len(server.content) // 2
    begins = [int(r.removeprefix("bytes=").rstrip("-")) for _, r in server.requests if r]
    assert begins[0] == half
    assert begins[1] > half


def test_a_later_attempt_goes_on_unless_the_file_has_changed(server: Server) -> None:
    for etag, resumes in (('"v1"', True), ('"v2"', False)):
        url = f"{server.url}/model.gguf?{resumes}"
        server.etag, server.n_breaks = '"v1"', 10**6
        with pytest.raises(DownloadError, match="what has arrived is kept"):
            resolve(url)
        server.etag, server.n_breaks = etag, 0
        server.requests.clear()
        assert resolve(url).read_bytes() == server.content


def test_a_checksum_is_checked(server: Server) -> None:
    right = hashlib.sha256(server.content).hexdigest()
    assert resolve(f"{server.url}/model.gguf#sha256={right}").exists()
    with pytest.raises(DownloadError, match=f"its SHA-256 is {right}"):
        resolve(f"{server.url}/model.gguf#sha256={'0' * 64}")
    with pytest.raises(ConfigError, match="64 hex digits"):
        resolve(f"{server.url}/model.gguf#md5=123")
    assert len(list(download.list_cached())) == 1


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("/status/404", ModelNotFound, "404"),
        ("/status/401", DownloadError, "refused"),
        ("/status/503", DownloadError, "answered 503"),
        ("/status/418", DownloadError, "answered 418"),
        ("/page.gguf", DownloadError, "web page"),
        ("/moved.gguf", (ConfigError, DownloadError), "encrypted|failed"),
    ],
)
def test_mishaps_are_explained(server: Server, path: str, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        resolve(server.url + path)
    assert list(download.list_cached()) == []


def test_unencrypted_and_unknown_addresses_are_refused() -> None:
    with pytest.raises(ConfigError, match="use https://"):
        resolve("http://example.org/model.gguf")
    with pytest.raises(ConfigError, match="ftp:// is not a model source"):
        resolve("ftp://example.org/model.gguf")


def test_a_full_disk_is_noticed_before(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="LLAMAHERD_CACHE to another disk"):
        resolve(f"{server.url}/model.gguf")


# ── Hugging Face hub ────────────────────────────────────────────────────────────────────


def run_hub(folder: Path, endpoint: str, name: str, **more: str) -> str:
    """Resolve in a process of its own: huggingface_hub reads its settings when imported."""
    code = (
        "import sys\n"
        "from llamaherd.errors import LlamaherdError\n"
        "from llamaherd.models.source import list_local, resolve\n"
        "try:\n"
        "    print(resolve(sys.argv[1], progress=False))\n"
        "    print([m.source for m in list_local() if m.source.startswith('hf:')])\n"
        "except LlamaherdError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, **settings, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hub_gives_the_wanted_file_and_works_offline_after(
    server: Server, folders: Path
) -> None:
    out = run_hub(folders, server.url, "hf:org/tiny-GGUF")
    path = Path(out.splitlines()[0])
    assert path.name == "tiny-Q4_K_M.gguf"
    assert path.read_bytes() == server.content
    assert "hf:org/tiny-GGUF:tiny-Q4_K_M.gguf" in out
    for name in (
        "hf:org/tiny-GGUF:q8_0",
        f"{server.url}/org/tiny-GGUF/resolve/main/tiny-Q8_0.gguf",
    ):
        assert "tiny-Q8_0.gguf" in run_hub(folders, server.url, name).splitlines()[0]
    offline = run_hub(folders, server.url, "hf:org/tiny-GGUF", HF_HUB_OFFLINE="1")
    assert offline.splitlines()[0] == str(path)
    missing = run_hub(folders, server.url, "hf:org/other", HF_HUB_OFFLINE="1")
    assert missing.startswith("ModelNotFound")
    assert "HF_HUB_OFFLINE" in missing


def test_what_the_hub_refuses_is_explained(server: Server, folders: Path) -> None:
    assert "log in" in run_hub(folders, server.url, "hf:org/gated")
    assert run_hub(folders, server.url, "hf:org/none").startswith("ModelNotFound there is no rep")
    assert run_hub(folders, server.url, "hf:a/b/c").startswith("ModelNotFound")


@pytest.mark.slow
def test_a_hub_out_of_reach_is_an_error(folders: Path) -> None:
    away = run_hub(folders, "http://127.0.0.1:9", "hf:org/tiny-GGUF")
    assert away.startswith("DownloadError")


def test_a_file_is_chosen_or_the_choice_is_listed() -> None:
    def choose(files: list[str], selector: str | None = None) -> list[str]:
        return hub.choose_file(files, selector, "org/m")

    parts = [f"big/m-Q8_0-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    files = ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q4_K_XL.gguf", *parts, "README.md"]
    assert choose(files) == ["m-Q4_K_M.gguf"]
    assert choose(files, "q4_k_s") == ["m-Q4_K_S.gguf"]
    assert choose(files, "Q8_0") == parts
    assert choose(files, "big/m-Q8_0-00001-of-00003.gguf") == parts
    assert choose(["only-f32.gguf"]) == ["only-f32.gguf"]
    with pytest.raises(ModelNotFound, match=r"no file for 'Q4_K'(.|\n)*hf:org/m:m-Q4_K_M.gguf"):
        choose(files, "Q4_K")
    with pytest.raises(ModelNotFound, match="several files for 'Q4_0'"):
        choose(["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    with pytest.raises(ModelNotFound, match="lacks a part"):
        choose([*files[:3], *parts[:2]], "Q8_0")
    with pytest.raises(ModelNotFound, match="no GGUF files"):
        choose(["model.safetensors"])


# ── Ollama, paths, the bundled model ────────────────────────────────────────────────────


def add_ollama_model(folder: Path, name: str, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    blob = folder / "ollama" / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "0" * 64},
    ]
    manifest = folder / "ollama" / "manifests" / "registry.ollama.ai" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"layers": layers}))
    return blob


def test_models_of_ollama_are_found_and_listed(folders: Path, content: bytes) -> None:
    blob = add_ollama_model(folders, "library/tiny/latest", content)
    other = add_ollama_model(folders, "someone/tiny/1b", content + b"\0")
    assert resolve("ollama:tiny") == blob
    assert resolve("ollama:someone/tiny:1b") == other
    assert [source for source, _ in ollama.list_models()] == [
        "ollama:tiny:latest",
        "ollama:someone/tiny:1b",
    ]
    with pytest.raises(ModelNotFound, match="it has: ollama:tiny:latest, ollama:someone/tiny:1b"):
        resolve("ollama:big")
    blob.unlink()
    with pytest.raises(ModelLoadError, match="pull it again"):
        resolve("ollama:tiny")


@pytest.mark.parametrize("name", ["../../secret", "a/../b:c", "tiny:../x", "a/b/c/d/e", "", "/etc"])
def test_names_of_ollama_cannot_lead_out_of_its_folder(folders: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        resolve(f"ollama:{name}")


def test_a_damaged_manifest_is_named(folders: Path, content: bytes) -> None:
    add_ollama_model(folders, "library/tiny/latest", content)
    manifest = folders / "ollama/manifests/registry.ollama.ai/library/tiny/latest"
    for text in ("{", "[]", '{"layers": [{"mediaType": 1}]}', '{"layers": []}'):
        manifest.write_text(text)
        with pytest.raises(ModelLoadError, match="manifest"):
            resolve("ollama:tiny")


def test_paths_and_the_demo(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    monkeypatch.setenv("HOME", str(folders))
    monkeypatch.setenv("USERPROFILE", str(folders))
    assert resolve("~/x.gguf") == folders / "x.gguf"
    assert resolve(Path("some/x.gguf")) == Path("some/x.gguf")
    assert resolve("demo").name == "demo.gguf"
    with pytest.raises(ModelNotFound, match="write hf:org/model"):
        resolve("org/model")
    for wrong in ("", 3):
        with pytest.raises(ConfigError):
            resolve(wrong)  # type: ignore[arg-type]


def test_all_local_models_are_listed_with_their_size(
    server: Server, folders: Path, content: bytes
) -> None:
    add_ollama_model(folders, "library/tiny/latest", content)
    resolve(f"{server.url}/model.gguf")
    sizes = {m.source: m.size_bytes for m in list_local()}
    assert sizes["ollama:tiny:latest"] == sizes[f"{server.url}/model.gguf"] == len(content)
