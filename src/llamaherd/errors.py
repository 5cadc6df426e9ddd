"""Every error that llamaherd raises on purpose.

Each message says what happened, which row or field is concerned, and what to do about it.

    LlamaherdError
    ├── ConfigError (ValueError, TypeError)      a wrong option; names the field
    ├── ModelError
    │   ├── ModelNotFound (FileNotFoundError)    no such file, repository, tag or URL
    │   ├── DownloadError                        the source answered wrongly or not at all
    │   ├── ModelLoadError                       not a GGUF file, cut short, or not supported
    │   │   └── InsufficientMemory (MemoryError) it would not fit; says what to lower
    │   └── TemplateError                        the chat template is missing, broken or unsafe
    ├── RequestError                             this row only; the others are unharmed
    │   ├── InvalidPrompt (ValueError)           nothing to evaluate, wrong type or bad token id
    │   ├── PromptTooLong (ValueError)           .n_prompt and .n_ctx
    │   ├── RequestTimeout (TimeoutError)        retryable
    │   ├── RequestCancelled
    │   ├── DecodeFailed                         the runner failed on this row; retryable
    │   ├── KvExhausted                          no room in the KV cache; retryable
    │   ├── WorkerCrashed                        it ended worker processes
    │   └── CallbackError                        the caller's own callback raised
    ├── QueueFull                                the bounded queue has no room
    ├── UnknownRequest (LookupError)             no such id, or its result was collected already
    ├── EngineError                              every row of this engine
    │   ├── ProcessorStopped (RuntimeError)      it was closed
    │   ├── EngineDead                           it failed; __cause__ says why
    │   └── ForkedProcess (RuntimeError)         used in a child of the process that loaded it
    ├── InputError (ValueError)                  an input file or table; names path and line
    └── OutputError (OSError)                    an output that cannot be written
"""

from __future__ import annotations

__all__ = [
    "CallbackError",
    "ConfigError",
    "DecodeFailed",
    "DownloadError",
    "EngineDead",
    "EngineError",
    "ForkedProcess",
    "InputError",
    "InsufficientMemory",
    "InvalidPrompt",
    "KvExhausted",
    "LlamaherdError",
    "ModelError",
    "ModelLoadError",
    "ModelNotFound",
    "OutputError",
    "ProcessorStopped",
    "PromptTooLong",
    "QueueFull",
    "RequestCancelled",
    "RequestError",
    "RequestTimeout",
    "TemplateError",
    "UnknownRequest",
    "WorkerCrashed",
]


class LlamaherdError(Exception):
    """Base class of every error that llamaherd raises on purpose.

    Attributes:
        retryable: Whether the same request may succeed if it is simply tried again.
    """

    retryable: bool = False


class ConfigError(LlamaherdError, ValueError, TypeError):
    """An option is unknown, has the wrong type, or contradicts another.

    It is also a `ValueError` and a `TypeError`, since an unknown keyword is the latter
    everywhere else in Python.
    """


class ModelError(LlamaherdError):
    """A model could not be found, loaded or used."""


class ModelNotFound(ModelError, FileNotFoundError):
    """The source names no model: no such file, repository, tag or URL."""


class DownloadError(ModelError):
    """The model's source answered wrongly, incompletely or not at all."""


class ModelLoadError(ModelError):
    """The file is not a GGUF model, is cut short, or is not supported."""


class InsufficientMemory(ModelLoadError, MemoryError):
    """The model would not fit in the memory that is available."""


class TemplateError(ModelError):
    """The chat template is missing, broken or tried something unsafe."""


class RequestError(LlamaherdError):
    """One row failed; every other row is unharmed."""


class InvalidPrompt(RequestError, ValueError):
    """The prompt is empty, of the wrong type, or holds token ids outside the vocabulary."""


class PromptTooLong(RequestError, ValueError):
    """The prompt does not fit in the context.

    Attributes:
        n_prompt: Tokens in the prompt.
        n_ctx: Tokens that one sequence may hold.
    """

    def __init__(
        self, n_prompt: int, n_ctx: int, remedy: str = "load the model with a larger n_ctx"
    ) -> None:
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx
        super().__init__(
            f"the prompt has {n_prompt} tokens but one sequence holds {n_ctx}: "
            f"shorten it, or {remedy}"
        )


class RequestTimeout(RequestError, TimeoutError):
    """The row ran longer than its `timeout_ms`."""

    retryable = True


class OutputIncomplete(RequestError):
    """The answer reached its limit of tokens before it satisfied its schema or grammar."""


class RequestCancelled(RequestError):
    """The row was cancelled before it finished."""


class DecodeFailed(RequestError):
    """The runner could not evaluate this row, even alone."""

    retryable = True


class KvExhausted(RequestError):
    """The KV cache had no room for this row, even with every other row out of the way."""

    retryable = True


class WorkerCrashed(RequestError):
    """A worker process ended while it ran this row, and ends again when it is tried again."""


class CallbackError(RequestError):
    """A callback given by the caller raised; its exception is `__cause__`."""


class QueueFull(LlamaherdError):
    """The bounded queue has no room now."""

    retryable = True


class UnknownRequest(LlamaherdError, LookupError):
    """No request has this id: it was never submitted, or its result was collected already."""


class EngineError(LlamaherdError):
    """The engine cannot serve any row."""


class ProcessorStopped(EngineError, RuntimeError):
    """The engine was closed."""


class EngineDead(EngineError):
    """The engine failed and cannot go on; `__cause__` says why."""


class ForkedProcess(EngineError, RuntimeError):
    """The engine belongs to the parent process; threads and locks do not survive a fork."""


class InputError(LlamaherdError, ValueError):
    """An input file or table cannot be read as asked; the message names path and line."""


class OutputError(LlamaherdError, OSError):
    """An output cannot be written."""


class JobChanged(LlamaherdError):
    """The output belongs to a job with another model, prompt, input or other settings."""
