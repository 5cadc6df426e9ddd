"""Drives any number of prompts through an engine with bounded memory.

Prompts are pulled from an iterable only as results are taken, a window at a time. Runs on
the caller's thread; results arrive through a queue.
"""

from __future__ import annotations

import queue
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llamaherd.config import GenerationConfig
from llamaherd.engine.request import Request, RowEngine
from llamaherd.engine.row import rejected
from llamaherd.engine.seeds import draw_seed, row_seed
from llamaherd.errors import ConfigError, EngineError, LlamaherdError
from llamaherd.models.model import Prompt
from llamaherd.results import FinishReason, GenerationResult

__all__ = ["AnyPrompt", "Encoder", "NumberedPrompt", "RowStream", "ScoredPrompt"]

Encoder = Callable[[Sequence[Prompt]], list[list[int] | LlamaherdError]]

# Results of identical greedy rows that are kept for later duplicates.
_MAX_REMEMBERED = 4096
# A slow iterable is left alone after this long, so that finished rows are delivered.
_PULL_SECONDS = 0.05
# Prompts are tokenized together in pieces of this many.
_ENCODE_TOGETHER = 256

_Key = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class NumberedPrompt:
    """A prompt whose seed comes from a number of its own instead of its place in the stream.

    Attributes:
        prompt: The prompt.
        number: Its number, from 0.
        config: How to answer it; None takes that of the call.
    """

    prompt: Prompt
    number: int
    config: GenerationConfig | None = None


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """A prompt after which some tokens are scored, instead of answering it.

    Attributes:
        prompt: The prompt.
        continuation: Tokens that come after it.
        scored_tokens: Tokens whose probabilities are wanted after those.
    """

    prompt: Prompt
    continuation: tuple[int, ...]
    scored_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Configuration and seed of every row."""

    configs: GenerationConfig | Sequence[GenerationConfig]
    job_seed: int

    def of(self, index: int) -> tuple[GenerationConfig, int]:
        if isinstance(self.configs, GenerationConfig):
            return self.configs, self.job_seed
        config = self.configs[index]
        return config, config.seed if config.seed is not None else self.job_seed


AnyPrompt = Prompt | NumberedPrompt | ScoredPrompt


class RowStream:
    """One call's rows, from prompts to results. Iterate it once.

    Args:
        engine: Where the rows run.
        prompts: Any iterable; pulled lazily.
        configs: For all rows, or one per row.
        encode: Turns prompts into token ids, or an error for that prompt.
        max_in_flight: Most rows that are pulled but not yet taken.
        ordered: Give results in the order of the prompts instead of as they end.
    """

    streaming = False

    def __init__(
        self,
        engine: RowEngine,
        prompts: Iterable[AnyPrompt],
        configs: GenerationConfig | Sequence[GenerationConfig],
        encode: Encoder,
        *,
        max_in_flight: int,
        ordered: bool = False,
    ) -> None:
        if not isinstance(configs, GenerationConfig):
            _check_lengths(prompts, configs)
        seed = configs.seed if isinstance(configs, GenerationConfig) else None
        self._plan = _Plan(configs, draw_seed() if seed is None else seed)
        self._engine = engine
        self._prompts = iter(prompts)
        self._is_lazy = not isinstance(prompts, Sequence)
        self._encode = encode
        self._max_in_flight = max_in_flight
        self._ordered = ordered
        self._results: queue.SimpleQueue[tuple[Request, GenerationResult]] = queue.SimpleQueue()
        self._in_work: set[Request] = set()
        self._n_pulled = 0
        self._n_outstanding = 0
        self._exhausted = False
        self._failure: Exception | None = None
        self._ready: deque[GenerationResult] = deque()
        self._held: dict[int, list[GenerationResult]] = {}
        self._n_choices: dict[int, int] = {}
        self._next_index = 0
        self._followers: dict[_Key, list[int]] = {}
        self._remembered: OrderedDict[_Key, GenerationResult] = OrderedDict()
        self.n_deduplicated = 0

    def text(self, request: Request, piece: str, tokens: tuple[int, ...]) -> None:
        """Part of the sink protocol; rows of a batch are not streamed."""

    def finish(self, request: Request, result: GenerationResult) -> None:
        """Part of the sink protocol; called on the engine's thread."""
        self._results.put((request, result))

    def __iter__(self) -> Iterator[GenerationResult]:
        """Give results. Whatever ends this early cancels what is still in work."""
        try:
            while True:
                if not self._exhausted and self._n_outstanding <= self._max_in_flight // 2:
                    self._pull()
                while self._ready:
                    self._n_outstanding -= 1
                    yield self._ready.popleft()
                if self._in_work:
                    self._take(*self._results.get())
                elif self._exhausted:
                    break
            if self._failure is not None:
                raise self._failure
        finally:
            if self._in_work:
                self._engine.cancel(self._in_work)

    def _pull(self) -> None:
        """Take prompts until enough rows are in flight, and submit them together."""
        stop_s = time.monotonic() + _PULL_SECONDS
        requests: list[Request] = []
        while not self._exhausted and self._n_outstanding < self._max_in_flight:
            prompts = self._next_prompts(stop_s)
            plain = [
                p.prompt if isinstance(p, (NumberedPrompt, ScoredPrompt)) else p for p in prompts
            ]
            for prompt, tokens in zip(prompts, self._encode(plain), strict=True):
                requests.extend(self._make_requests(prompt, tokens))
            if self._is_lazy and time.monotonic() >= stop_s:
                break
        if requests:
            self._submit(requests)

    def _submit(self, requests: list[Request]) -> None:
        """Hand rows over. If the engine is gone, rows that are done are delivered first."""
        try:
            self._engine.submit(requests)
        except EngineError as error:
            self._exhausted = True
            self._failure = error
        else:
            self._in_work.update(requests)

    def _next_prompts(self, stop_s: float) -> list[AnyPrompt]:
        """The next few prompts. An iterable that raises ends the input; rows before it count."""
        prompts: list[AnyPrompt] = []
        n_wanted = min(_ENCODE_TOGETHER, self._max_in_flight - self._n_outstanding)
        try:
            while len(prompts) < n_wanted:
                prompts.append(next(self._prompts))
                if self._is_lazy and time.monotonic() >= stop_s:
                    break
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            self._exhausted = True
            self._failure = error
        return prompts

    def _make_requests(
        self, prompt: AnyPrompt, tokens: list[int] | LlamaherdError
    ) -> Iterator[Request]:
        """The requests of one prompt; none if it is wrong or the same as an earlier one."""
        index = self._n_pulled
        self._n_pulled += 1
        config, seed = self._plan.of(index)
        own = prompt.config if isinstance(prompt, NumberedPrompt) else None
        if own is not None:
            config, seed = own, own.seed if own.seed is not None else seed
        if self._ordered:
            self._n_choices[index] = config.n
        self._n_outstanding += config.n
        if isinstance(tokens, LlamaherdError):
            for choice in range(config.n):
                request = Request([], config, self, index=index, choice=choice)
                self._offer(rejected(request, FinishReason.ERROR, tokens))
            return
        scored: tuple[int, ...] = ()
        number = prompt.number if isinstance(prompt, NumberedPrompt) else index
        if isinstance(prompt, ScoredPrompt):
            # An empty prompt stays empty, and fails.
            tokens = [*tokens, *prompt.continuation] if tokens else tokens
            scored = prompt.scored_tokens
        requests = [
            Request(
                tokens,
                config,
                self,
                row_seed(seed, number, choice),
                index=index,
                choice=choice,
                scored_tokens=scored,
            )
            for choice in range(config.n)
        ]
        # Configurations of single rows come and go, so that nothing is remembered by them.
        if own is not None or not config.is_greedy or not self._follow(requests[0]):
            yield from requests

    def _follow(self, request: Request) -> bool:
        """Let a greedy row share the computation of an identical one, if there is any."""
        key, index = _key(request), request.index
        known = self._remembered.get(key)
        if known is not None:
            self._remembered.move_to_end(key)
            self._offer(_duplicate(known, index))
        elif key in self._followers:
            self._followers[key].append(index)
        else:
            self._followers[key] = []
            return False
        self.n_deduplicated += 1
        return True

    def _take(self, request: Request, result: GenerationResult) -> None:
        self._in_work.discard(request)
        self._offer(result)
        key = _key(request)
        if key not in self._followers:
            return
        followers = self._followers.pop(key, [])
        for index in followers:
            self._offer(_duplicate(result, index))
        if result.success:
            self._remembered[key] = result
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    def _offer(self, result: GenerationResult) -> None:
        """Make a result ready, in order if that was asked for."""
        if not self._ordered:
            self._ready.append(result)
            return
        self._held.setdefault(result.index, []).append(result)
        while self._next_index in self._held:
            choices = self._held[self._next_index]
            if len(choices) < self._n_choices[self._next_index]:
                return
            del self._n_choices[self._next_index]
            self._ready.extend(sorted(choices, key=lambda r: r.choice))
            del self._held[self._next_index]
            self._next_index += 1


def _check_lengths(prompts: Iterable[object], configs: Sequence[GenerationConfig]) -> None:
    n_prompts = len(prompts) if isinstance(prompts, Sequence) else None
    if n_prompts != len(configs):
        raise ConfigError(
            f"{len(configs)} configs for {n_prompts or 'an unknown number of'} prompts; "
            "give one config for all, or a list of prompts and a list of as many configs"
        )


def _key(request: Request) -> _Key:
    """What two greedy rows have in common if they are identical."""
    return (id(request.config), tuple(request.tokens), request.scored_tokens)


def _duplicate(result: GenerationResult, index: int) -> GenerationResult:
    """The result of a row that an identical row computed."""
    return replace(result, index=index, cached_tokens=result.prompt_tokens)
