"""One request in work: its sequence, its sampler, its text so far, and its result in the end."""

from __future__ import annotations

from collections.abc import Sequence as PySequence

from llamaherd.engine.plan import FloatArray
from llamaherd.engine.request import Request
from llamaherd.engine.sampling import SamplingRow, row_logprobs, token_scores
from llamaherd.engine.text import TextStream, strip_control, strip_thinking
from llamaherd.engine.vocabulary import Vocabulary
from llamaherd.engine.waiting import Sequence
from llamaherd.errors import (
    ConfigError,
    InvalidPrompt,
    LlamaherdError,
    OutputIncomplete,
    PromptTooLong,
)
from llamaherd.results import FinishReason, GenerationResult, RowError, TokenLogprob

__all__ = ["Row", "check_request", "rejected"]


def check_request(request: Request, vocabulary: Vocabulary, n_ctx: int) -> None:
    """Refuse what can never be computed.

    Raises:
        InvalidPrompt: The prompt is empty, or has tokens that do not exist.
        PromptTooLong: One sequence cannot hold it.
        ConfigError: The logit bias names tokens that do not exist.
    """
    tokens = request.tokens
    n_vocab = vocabulary.n_vocab
    if not tokens:
        raise InvalidPrompt("the prompt is empty: there is no token to start from")
    if min(tokens) < 0 or max(tokens) >= n_vocab:
        bad = next(t for t in tokens if not 0 <= t < n_vocab)
        raise InvalidPrompt(f"token id {bad} is outside the vocabulary (0 to {n_vocab - 1})")
    if len(tokens) >= n_ctx:
        raise PromptTooLong(len(tokens), n_ctx)
    for token in request.config.logit_bias:
        if token >= n_vocab:
            raise ConfigError(
                f"logit_bias names token {token}, the vocabulary ends at {n_vocab - 1}"
            )
    for token in request.scored_tokens:
        if not 0 <= token < n_vocab:
            raise InvalidPrompt(f"token id {token} to be scored is outside the vocabulary")


class Row:
    """A request in work. Used on the engine's thread only.

    Args:
        request: What was asked.
        vocabulary: Tokens of the model.
        n_ctx: Tokens that one sequence may hold.
        submitted_s: When the request was submitted, on the engine's clock.
    """

    def __init__(
        self, request: Request, vocabulary: Vocabulary, n_ctx: int, submitted_s: float
    ) -> None:
        self.request = request
        self.submitted_s = submitted_s
        self.started_s: float | None = None
        self.attempts = 0
        self._vocabulary = vocabulary
        self._emitted = False
        self._n_emitted_tokens = 0
        self.restart(n_ctx)

    def restart(self, n_ctx: int) -> None:
        """Begin from the prompt, for the first or another attempt."""
        self.close()
        request = self.request
        config = request.config
        self.attempts += 1
        self.sequence = Sequence(
            tokens=list(request.tokens),
            n_prompt=len(request.tokens),
            max_new_tokens=0
            if request.scored_tokens
            else min(config.max_tokens, n_ctx - len(request.tokens)),
            priority=request.priority,
            interactive=request.sink.streaming,
        )
        forbidden = tuple(self._vocabulary.end_tokens) if config.ignore_eos else ()
        sampler = None
        if not config.is_greedy or config.has_penalties:
            sampler = self._vocabulary.make_sampler(config, request.seed, request.tokens)
        self._constraint = self._vocabulary.make_constraint(config)
        self._is_cut = False
        self.sampling = SamplingRow(
            config, sampler, self.sequence.tokens, forbidden, self._constraint
        )
        needs_stream = bool(config.stop) or request.sink.streaming
        self._stream = TextStream(config.stop) if needs_stream else None
        self._logprobs: list[TokenLogprob] = []
        self._scores: tuple[float, ...] | None = None

    @property
    def can_retry(self) -> bool:
        """Whether another attempt is allowed. Text that was shown cannot be taken back."""
        return self.attempts <= self.request.config.retry_attempts and not self._emitted

    @property
    def generated(self) -> list[int]:
        """Tokens generated so far."""
        return self.sequence.tokens[self.sequence.n_prompt :]

    def begin(self) -> FinishReason | None:
        """Add the tokens that a constraint puts first; say whether the row ends with them."""
        if self._constraint is None:
            return None
        return self._follow(self._constraint.begin())

    def push(self, token: int, logits: FloatArray) -> FinishReason | None:
        """Add a sampled token, and those that a constraint lets follow without a choice.

        Args:
            token: The token.
            logits: Float32 ``[n_vocab]`` that it was drawn from.

        Returns:
            Why the row ends now, if it does.

        Raises:
            LlamaherdError: The constraint cannot be followed any further.
        """
        n_top = self.request.config.logprobs
        if n_top is not None:
            self._note_logprobs(token, logits, n_top)
        reason = self._add(token)
        if self._constraint is None or reason is FinishReason.STOP:
            return reason
        return self._follow(self._constraint.accept(token))

    def score(self, logits: FloatArray) -> FinishReason:
        """Note how probable the tokens to be scored are; that ends the row."""
        self._scores = token_scores(logits, self.request.scored_tokens)
        return FinishReason.STOP

    def shortfall(self) -> LlamaherdError | None:
        """Why the text is not what its constraint asks for, if it ends here."""
        if self._constraint is None or (self._constraint.is_complete and not self._is_cut):
            return None
        n_tokens = len(self.generated)
        return OutputIncomplete(
            f"the answer had {n_tokens} tokens and was not complete under its "
            f"{self.request.config.constraint_kind}; raise max_tokens (or n_ctx)"
        )

    def _follow(self, forced: PySequence[int]) -> FinishReason | None:
        """Add tokens that the constraint has accepted already."""
        assert self._constraint is not None
        for token in forced:
            if self.sequence.n_left <= 0:
                self._is_cut = True
                break
            if self.request.config.logprobs is not None:
                self._logprobs.append(TokenLogprob(token, self._text_of(token), 0.0))
            self._add(token)
        if self._constraint.is_finished and not self._is_cut:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.sequence.n_left <= 0 else None

    def _add(self, token: int) -> FinishReason | None:
        config = self.request.config
        if token in self._vocabulary.end_tokens and not config.ignore_eos:
            return FinishReason.STOP
        sequence = self.sequence
        sequence.tokens.append(token)
        if self._stream is not None:
            shown = self._stream.push(self._vocabulary.piece(token))
            if shown:
                self._emit(shown)
            if self._stream.stopped:
                return FinishReason.STOP
        return FinishReason.LENGTH if sequence.n_left <= 0 else None

    def _note_logprobs(self, token: int, logits: FloatArray, n_top: int) -> None:
        logprobs = row_logprobs(logits, token, n_top)
        top = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
        self._logprobs.append(
            TokenLogprob(
                token,
                self._text_of(token),
                logprobs.chosen,
                tuple((t, self._text_of(t), value) for t, value in top),
            )
        )

    def result(
        self, reason: FinishReason, now_s: float, error: LlamaherdError | None = None
    ) -> GenerationResult:
        """The row's outcome; text that was held back is included."""
        request = self.request
        tokens = tuple(self.generated)
        started_s = now_s if self.started_s is None else self.started_s
        return GenerationResult(
            text=self._final_text(tokens),
            tokens_generated=len(tokens),
            processing_time_ms=1000.0 * (now_s - started_s),
            success=error is None,
            error=RowError.from_exception(error) if error is not None else None,
            index=request.index,
            id=request.id,
            finish_reason=reason,
            prompt_tokens=len(request.tokens),
            cached_tokens=min(self.sequence.n_cached, len(request.tokens)),
            queue_time_ms=1000.0 * (started_s - self.submitted_s),
            tokens=tokens,
            logprobs=tuple(self._logprobs[: len(tokens)])
            if request.config.logprobs is not None
            else None,
            seed=None if request.config.is_greedy else request.seed,
            attempts=self.attempts,
            choice=request.choice,
            scores=self._scores,
        )

    def close(self) -> None:
        """Free the native sampler."""
        sampling = getattr(self, "sampling", None)
        if sampling is not None and sampling.sampler is not None:
            sampling.sampler.close()

    def _final_text(self, tokens: tuple[int, ...]) -> str:
        config = self.request.config
        if self._stream is not None:
            held = self._stream.flush()
            if held:
                self._emit(held)
            text = self._stream.text
        else:
            text = self._join(tokens)
        if config.clean:
            control = self._vocabulary.control_tokens
            if not config.stop:
                text = self._join(tuple(t for t in tokens if t not in control))
            text = strip_control(text)
        return strip_thinking(text) if config.strip_thinking else text

    def _emit(self, text: str) -> None:
        if not self.request.sink.streaming:
            return
        self._emitted = True
        tokens = tuple(self.sequence.tokens[self.sequence.n_prompt + self._n_emitted_tokens :])
        self._n_emitted_tokens += len(tokens)
        self.request.sink.text(self.request, text, tokens)

    def _join(self, tokens: tuple[int, ...]) -> str:
        return b"".join(map(self._vocabulary.piece, tokens)).decode("utf-8", "replace")

    def _text_of(self, token: int) -> str:
        return self._vocabulary.piece(token).decode("utf-8", "replace")


def rejected(request: Request, reason: FinishReason, error: LlamaherdError) -> GenerationResult:
    """Result of a request that never became a row."""
    return GenerationResult(
        index=request.index,
        id=request.id,
        choice=request.choice,
        prompt_tokens=len(request.tokens),
        finish_reason=reason,
        error=RowError.from_exception(error),
    )
