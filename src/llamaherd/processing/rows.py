"""Drives any number of prompts through an engine with bounded memory.

Prompts are pulled from an iterable only as results are taken, a window at a time. Runs on
the caller's thread; results arrive through a queue, and prompts that may have to be waited for
through the same one, from a `Reader`.
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
from llamaherd.processing.reader import Read, Reader, ReadingEnded
from llamaherd.results import FinishReason, GenerationResult

__all__ = ["AnyPrompt", "Encoder", "NumberedPrompt", "RowStream", "ScoredPrompt"]

Encoder = Callable[[Sequence[Prompt]], list[list[int] | LlamaherdError]]

# Results of identical greedy rows that are kept for later duplicates.
_MAX_REMEMBERED = 4096
# Rows that an iterable gives within this time begin together; after it, nobody waits for more.
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
_Event = tuple[Request, GenerationResult] | Read[AnyPrompt] | ReadingEnded


class RowStream:
    """One call's rows, from prompts to results. Iterate it once.

    Args:
        engine: Where the rows run.
        prompts: Any iterable; pulled lazily. Unless it is a sequence, on a thread of its own, so
            that results do not wait for it.
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
        self._at_hand: Iterator[AnyPrompt] | None = None
        self._reader: Reader[AnyPrompt] | None = None
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        if isinstance(prompts, Sequence):
            self._at_hand = iter(prompts)
        else:
            self._reader = Reader(iter(prompts), self._events.put)
        # Prompts that the reader was asked for and has not delivered, and those that it has.
        self._n_awaited = 0
        self._arrived: list[AnyPrompt] = []
        self._encode = encode
        self._max_in_flight = max_in_flight
        self._ordered = ordered
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
        self._events.put((request, result))

    def __iter__(self) -> Iterator[GenerationResult]:
        """Give results. Whatever ends this early cancels what is still in work."""
        try:
            while True:
                if not self._exhausted and self._n_claimed <= self._max_in_flight // 2:
                    self._pull()
                elif self._arrived:
                    self._submit(self._encode_all(self._take_arrived()))
                while self._ready:
                    self._n_outstanding -= 1
                    yield self._ready.popleft()
                if self._in_work or self._n_awaited:
                    self._handle(self._events.get())
                    while not self._events.empty():
                        self._handle(self._events.get())
                elif self._exhausted and not self._arrived:
                    break
            if self._failure is not None:
                raise self._failure
        finally:
            if self._in_work:
                self._engine.cancel(self._in_work)
            if self._reader is not None:
                self._reader.close()

    @property
    def _n_claimed(self) -> int:
        """Rows that are outstanding, or will be once they are read."""
        return self._n_outstanding + len(self._arrived) + self._n_awaited

    def _pull(self) -> None:
        """Take prompts until enough rows are in flight, and submit them together."""
        stop_s = time.monotonic() + _PULL_SECONDS
        requests = self._encode_all(self._take_arrived())
        while not self._exhausted and self._n_claimed < self._max_in_flight:
            n_wanted = min(_ENCODE_TOGETHER, self._max_in_flight - self._n_claimed)
            if self._reader is None:
                self._take_at_hand(n_wanted)
            else:
                self._read(self._reader, n_wanted, stop_s)
            requests += self._encode_all(self._take_arrived())
            if self._n_awaited:
                break
        self._submit(requests)

    def _take_at_hand(self, n_wanted: int) -> None:
        """Take the next few prompts of a sequence."""
        assert self._at_hand is not None
        try:
            for _ in range(n_wanted):
                self._arrived.append(next(self._at_hand))
        except StopIteration:
            self._end(None)
        except Exception as error:
            self._end(error)

    def _read(self, reader: Reader[AnyPrompt], n_wanted: int, stop_s: float) -> None:
        """Let the next few prompts be read, and give them a moment to come."""
        if self._n_awaited:
            # The iterable is slow, and results are not to wait for it again and again.
            stop_s = 0.0
        reader.want(n_wanted)
        self._n_awaited += n_wanted
        while self._n_awaited:
            try:
                self._handle(self._events.get(timeout=max(0.0, stop_s - time.monotonic())))
            except queue.Empty:
                break

    def _take_arrived(self) -> list[AnyPrompt]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def _encode_all(self, prompts: Sequence[AnyPrompt]) -> list[Request]:
        """The requests of some prompts."""
        if not prompts:
            return []
        plain = [p.prompt if isinstance(p, (NumberedPrompt, ScoredPrompt)) else p for p in prompts]
        return [
            request
            for prompt, tokens in zip(prompts, self._encode(plain), strict=True)
            for request in self._make_requests(prompt, tokens)
        ]

    def _submit(self, requests: list[Request]) -> None:
        """Hand rows over. If the engine is gone, rows that are done are delivered first."""
        if not requests:
            return
        try:
            self._engine.submit(requests)
        except EngineError as error:
            self._end(error)
        else:
            self._in_work.update(requests)

    def _handle(self, event: _Event) -> None:
        """Take in a result or a prompt."""
        if isinstance(event, tuple):
            self._take(*event)
        elif self._exhausted:
            # It was read before anybody knew that the engine is gone.
            return
        elif isinstance(event, Read):
            self._n_awaited -= 1
            self._arrived.append(event.item)
        elif event.error is None or isinstance(event.error, Exception):
            self._end(event.error)
        else:
            raise event.error

    def _end(self, failure: Exception | None) -> None:
        """Take no more prompts. What fails here is raised when the rows before it are done."""
        self._exhausted = True
        self._failure = failure
        self._n_awaited = 0

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
