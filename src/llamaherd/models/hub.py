"""Models on the Hugging Face hub, through huggingface_hub.

Its environment variables count: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llamaherd.errors import DownloadError, ModelNotFound

__all__ = ["choose_file", "fetch", "fetch_file", "list_cached", "parse_url"]

# What to take when nothing is asked for: the usual balance of size and quality first.
_PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_XS", "BF16", "F16", "F32")
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_URL_PATH = re.compile(r"^/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/(.+\.gguf)$")
_MAX_LISTED = 40


def fetch(name: str, *, show_progress: bool = False) -> Path:
    """Bring a model here, or find it in the cache.

    Args:
        name: ``org/repo``, ``org/repo:file.gguf`` or ``org/repo:Q4_K_M``.
        show_progress: Show progress bars.

    Returns:
        The file; of a split model, its first part, with the others beside it.

    Raises:
        ModelNotFound: No such repository or file, or several files match.
        DownloadError: The hub cannot be reached or refused.
    """
    repo, _, selector = name.partition(":")
    files = choose_file(_list_files(repo), selector or None, repo)
    return [_download(repo, file, None, show_progress) for file in files][0]


def fetch_file(repo: str, revision: str, file: str, *, show_progress: bool = False) -> Path:
    """Bring one file here, by its place on the hub; and the other parts, if it is split."""
    return [_download(repo, f, revision, show_progress) for f in _parts_of(file)][0]


def parse_url(url: str) -> tuple[str, str, str] | None:
    """Repository, revision and file of a hub address; None if it is another address."""
    from huggingface_hub import constants

    parts = urlsplit(url)
    hosts = {"huggingface.co", "hf.co", urlsplit(constants.ENDPOINT).netloc}
    match = _URL_PATH.match(unquote(parts.path))
    # With a checksum in the fragment it is downloaded as it stands, and checked.
    if parts.netloc not in hosts or match is None or parts.fragment:
        return None
    return match[1], match[2], match[3]


def choose_file(files: Sequence[str], selector: str | None, repo: str) -> list[str]:
    """Choose among the files of a repository.

    Args:
        files: Names of all files.
        selector: A file, a quantization such as ``"Q4_K_M"``, or None for the usual one.
        repo: Name of the repository, for messages.

    Returns:
        The file, or all parts of a split one.

    Raises:
        ModelNotFound: Nothing matches, or several do; the message lists what there is.
    """
    models = [f for f in sorted(files) if f.endswith(".gguf") and "mmproj" not in f.lower()]
    firsts = [f for f in models if (m := _SPLIT.search(f)) is None or m[1] == "00001"]
    if not firsts:
        raise ModelNotFound(f"the repository {repo} has no GGUF files; look for one named ...-GGUF")
    if selector is None:
        found = firsts if len(firsts) == 1 else _first_preferred(firsts)
    elif selector.lower().endswith(".gguf"):
        found = [f for f in firsts if f == selector] or [
            f for f in firsts if f.rsplit("/", 1)[-1] == selector
        ]
    else:
        found = _matching(firsts, selector)
    if len(found) == 1:
        parts = _parts_of(found[0])
        missing = sorted(set(parts) - set(models))
        if missing:
            raise ModelNotFound(f"the repository {repo} lacks a part of the model: {missing[0]}")
        return parts
    problem = "has several files" if len(found) > 1 else "has no file"
    wanted = f" for {selector!r}" if selector else " that is the obvious choice"
    listed = "\n".join(f"  hf:{repo}:{f}" for f in (found or firsts)[:_MAX_LISTED])
    raise ModelNotFound(f"the repository {repo} {problem}{wanted}; choose one of:\n{listed}")


def list_cached() -> Iterator[tuple[str, Path]]:
    """Source and file of each GGUF model in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda r: r.repo_id):
        seen = set()
        for revision in repo.revisions:
            for file in sorted(revision.files, key=lambda f: f.file_name):
                inside = file.file_path.relative_to(revision.snapshot_path).as_posix()
                if inside.endswith(".gguf") and inside not in seen:
                    seen.add(inside)
                    yield f"hf:{repo.repo_id}:{inside}", file.file_path


def _first_preferred(files: Sequence[str]) -> list[str]:
    for quantization in _PREFERRED:
        found = _matching(files, quantization)
        if found:
            return found
    return []


def _matching(files: Sequence[str], quantization: str) -> list[str]:
    """Files that have the quantization as a whole word in their name or folder."""
    word = re.compile(rf"(?<![A-Z0-9]){re.escape(quantization)}(?![A-Z0-9_])", re.IGNORECASE)
    return [f for f in files if word.search(f.removesuffix(".gguf"))]


def _parts_of(file: str) -> list[str]:
    match = _SPLIT.search(file)
    if match is None:
        return [file]
    stem, n_parts = file[: match.start()], match[2]
    return [f"{stem}-{i:05d}-of-{n_parts}.gguf" for i in range(1, int(n_parts) + 1)]


def _list_files(repo: str) -> list[str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with _translated(repo):
            return list(HfApi().list_repo_files(repo))
    except DownloadError as error:
        # Without a connection, what was downloaded before must do.
        prefix = f"hf:{repo}:"
        cached = [s.removeprefix(prefix) for s, _ in list_cached() if s.startswith(prefix)]
        if cached:
            return cached
        if isinstance(error.__cause__, OfflineModeIsEnabled):
            raise ModelNotFound(
                f"the model hf:{repo} is not in the cache, and HF_HUB_OFFLINE forbids to download"
            ) from error
        raise


def _download(repo: str, file: str, revision: str | None, show_progress: bool) -> Path:
    from huggingface_hub import hf_hub_download

    with _translated(repo), _progress_bars(show_progress):
        return Path(hf_hub_download(repo, file, revision=revision))


@contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    """Turn the hub's progress bars on or off for a while; the switch is global."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Turn the hub's errors into ours."""
    from huggingface_hub import errors

    http_error: Any = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"the repository {repo} is gated: accept its conditions on its page "
            f"(https://huggingface.co/{repo}), then log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"there is no repository {repo} on the Hugging Face hub; if it is private, "
            "log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise DownloadError(f"the hub cannot be reached for {repo}: {error}") from error
        raise ModelNotFound(f"the repository {repo} has no such file or revision") from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repo!r} is not a repository name: {error}") from error
    except (http_error, OSError) as error:
        raise DownloadError(f"the download of {repo} failed: {error}") from error
