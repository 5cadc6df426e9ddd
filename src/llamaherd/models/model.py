"""`Model`: weights, vocabulary, chat template, and a way to run them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypeVar, cast

from llamaherd.config import EmbeddingConfig, EngineConfig, GenerationConfig, ThreadPoolConfig
from llamaherd.engine.engine import Engine
from llamaherd.engine.plan import FloatArray
from llamaherd.engine.request import Request, RowEngine
from llamaherd.errors import (
    InvalidPrompt,
    LlamaherdError,
    ModelError,
    TemplateError,
)
from llamaherd.hardware import available_cpus
from llamaherd.llama.gguf_file import check_model_file, read_header
from llamaherd.llama.vocabulary import LlamaVocabulary
from llamaherd.llama.weights import LoraSource, Weights
from llamaherd.models.calls import (
    AnswerSink,
    Closeable,
    StreamSink,
    make_request,
    read_stream,
    wait_for,
)
from llamaherd.models.chat_template import ChatTemplate
from llamaherd.models.embedding import TextEmbeddings
from llamaherd.models.engine_choice import EngineName, choose_engine
from llamaherd.models.fingerprint import fingerprint
from llamaherd.models.info import ModelInfo
from llamaherd.models.memory import check_file
from llamaherd.models.runner_factory import RunnerFactory
from llamaherd.models.source import resolve
from llamaherd.models.tokenizing import BatchTokenizer
from llamaherd.results import Embedding, GenerationResult
from llamaherd.runners.native_weights import NativeWeights

__all__ = ["Model", "Prompt"]

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]
Config = TypeVar("Config", EmbeddingConfig, GenerationConfig)


class Model:
    """A GGUF model. Safe to use from any thread; calls from several threads join one batch.

    Make one with `Model.load`. Use it as a context manager, or call `close`.

    Example:
        >>> with Model.load("demo") as model:
        ...     question = [{"role": "user", "content": "What is the capital of France?"}]
        ...     print(model.generate(question, temperature=0).text)
        The capital of France is Paris.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        engine: str,
        native: NativeWeights | None,
        vocab_only: bool,
        n_ctx: int | None,
        threads: ThreadPoolConfig,
        flash_attention: bool,
        gpu_layers: int,
        lora: Sequence[LoraSource] = (),
        chat_template: str | None = None,
    ) -> None:
        self._weights = weights
        self._engine_name = engine
        self._native = native
        self._vocab_only = vocab_only
        self._lora = tuple(lora)
        self._facts = weights.facts()
        self._n_ctx = n_ctx
        self._threads = threads
        self._flash_attention = flash_attention
        self._gpu_layers = gpu_layers
        self._vocabulary = LlamaVocabulary(weights)
        pre = weights.metadata().get("tokenizer.ggml.pre", "")
        self._tokenizer = BatchTokenizer(self._vocabulary, pre, threads)
        self._chat = ChatTemplate.for_model(weights, self._tokenizer, chat_template)
        self._lock = threading.RLock()
        self._embeddings = TextEmbeddings(weights, native, self._tokenizer, threads, n_ctx)
        self._engine: RowEngine | None = None
        self._users: weakref.WeakSet[Closeable] = weakref.WeakSet()

    @classmethod
    def load(
        cls,
        source: str | PathLike[str],
        *,
        engine: EngineName = "auto",
        n_ctx: int | None = None,
        gpu_layers: int = 0,
        threads: int | ThreadPoolConfig | None = None,
        flash_attention: bool = False,
        lora: Sequence[LoraSource] = (),
        vocab_only: bool = False,
        chat_template: str | None = None,
        verbosity: int = 0,
        progress: bool | None = None,
    ) -> Model:
        """Find, check and load a model.

        Args:
            source: A GGUF file; ``"demo"``, the bundled model; ``"hf:org/repo[:file-or-quant]"``
                on the Hugging Face hub; ``"ollama:name[:tag]"``, which Ollama has downloaded;
                or an ``https://`` address.
            engine: ``"native"``, llamaherd's own for CPUs; ``"llama.cpp"``; or ``"auto"``, which
                takes the native one wherever it runs the model.
            n_ctx: Tokens that one row may hold; None takes what the model was trained for.
            gpu_layers: Layers to put on the GPU; -1 for all.
            threads: Compute threads; None takes the CPUs this process may use.
            flash_attention: Insist on it; otherwise llama.cpp decides.
            lora: LoRA adapters in GGUF form: paths, or (path, scale).
            vocab_only: Load only the vocabulary, for tokenizing.
            chat_template: Jinja source to use instead of the model's own.
            verbosity: 0 is silent; 1 to 3 show more and more of llama.cpp's own log.
            progress: Show a download's progress; None does in an interactive terminal.

        Raises:
            ModelNotFound: The source names no model.
            DownloadError: The source answered wrongly.
            ModelLoadError: The file cannot be loaded.
            InsufficientMemory: It would not fit.
            ConfigError: An option is wrong.
        """
        EngineConfig(n_ctx=n_ctx)
        if not isinstance(threads, ThreadPoolConfig):
            threads = ThreadPoolConfig(num_threads=threads)
        path = resolve(source, progress=progress)
        check_model_file(path)
        choice = choose_engine(path, engine, gpu_layers=gpu_layers, has_lora=bool(lora))
        native = None
        if not vocab_only:
            check_file(path, n_ctx=n_ctx, gpu_layers=gpu_layers)
            if choice.name == "native":
                n_threads = threads.num_threads or available_cpus()
                native = NativeWeights(path, n_threads=n_threads, n_ctx=n_ctx)
        # The vocabulary is llama.cpp's in any case.
        weights = Weights.load(
            path,
            gpu_layers=gpu_layers,
            vocab_only=vocab_only or native is not None,
            lora=lora,
            verbosity=verbosity,
        )
        return cls(
            weights,
            engine=choice.name,
            native=native,
            vocab_only=vocab_only,
            n_ctx=n_ctx,
            threads=threads,
            flash_attention=flash_attention,
            gpu_layers=gpu_layers,
            lora=lora,
            chat_template=chat_template,
        )

    def load_options(self) -> dict[str, Any]:
        """Arguments of `load`, as plain data, that load the same weights in another process."""
        return {
            "source": str(self._weights.path),
            "engine": self._engine_name,
            "n_ctx": self._n_ctx,
            "gpu_layers": self._gpu_layers,
            "flash_attention": self._flash_attention,
            "lora": [
                (str(source[0]), float(source[1])) if isinstance(source, tuple) else str(source)
                for source in self._lora
            ],
        }

    @property
    def info(self) -> ModelInfo:
        """Facts about the model."""
        facts = self._facts
        return ModelInfo(
            name=facts.name or self._weights.path.stem,
            architecture=facts.architecture,
            n_params=facts.n_params,
            n_vocab=facts.n_vocab,
            n_embd=facts.n_embd,
            n_layer=facts.n_layer,
            n_head=facts.n_head,
            n_ctx_train=facts.n_ctx_train,
            size_bytes=facts.size_bytes,
            quantisation=facts.quantization,
            engine=self._engine_name,
            chat_template=self._chat is not None,
            path=str(self._weights.path),
        )

    @property
    def n_ctx(self) -> int:
        """Tokens that one row may hold, unless an engine is opened for more or fewer."""
        return self._n_ctx or self._facts.n_ctx_train

    def metadata(self) -> dict[str, str]:
        """All metadata of the file that is not an array, as text."""
        return self._weights.metadata()

    def fingerprint(self) -> str:
        """Tells this model from others, for files that belong to one model.

        Raises:
            ModelError: Its file cannot be read any more.
        """
        try:
            return fingerprint(self._weights.path, self.metadata())
        except OSError as error:
            raise ModelError(f"cannot read {self._weights.path} any more: {error}") from error

    # ── text ────────────────────────────────────────────────────────────────────────────

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Tokens of a text.

        Args:
            text: Any text.
            add_bos: Begin as the model wants texts to begin (with BOS, if it has one).
            special: Let control tokens that are written in the text count as such.

        Raises:
            InvalidPrompt: The text is no valid Unicode.
        """
        return self._vocabulary.tokenize(text, add_bos, special)

    def tokenize_batch(
        self,
        texts: Sequence[str],
        *,
        add_bos: bool = True,
        special: bool = False,
        thread_pool: ThreadPoolConfig | None = None,
    ) -> list[list[int]]:
        """Tokens of many texts, on all threads; each as `tokenize` gives them."""
        return self._tokenizer.batch_tokenize(texts, add_bos, special, thread_pool=thread_pool)

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> str:
        """Text of tokens; bytes that are no complete character become U+FFFD.

        Args:
            tokens: Token ids.
            special: Write control tokens out instead of leaving them out.

        Raises:
            InvalidPrompt: An id is not in the vocabulary.
        """
        return self._vocabulary.detokenize(tokens, special)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        **template_vars: Any,
    ) -> str:
        """Render chat messages with the model's own template, in a sandbox.

        The result is a raw prompt: control tokens in it count, also any that a message
        contains. Give the messages themselves to `generate` to rule that out.

        Args:
            messages: Such as ``[{"role": "user", "content": "Hello"}]``.
            add_generation_prompt: End where the assistant's answer begins.
            **template_vars: Passed to the template.

        Raises:
            TemplateError: The model has no template, or it failed.
        """
        return self._require_chat().render(
            messages, add_generation_prompt=add_generation_prompt, **template_vars
        )

    def encode(self, prompt: Prompt, **template_vars: Any) -> list[int]:
        """Token ids of a prompt of any kind.

        Args:
            prompt: A string (control tokens written in it count), chat messages (text in them
                never becomes a control token), or token ids.
            **template_vars: Passed to the template of chat messages.

        Raises:
            InvalidPrompt: The prompt is of another type, or no valid text.
            TemplateError: The chat template is missing or failed.
        """
        if isinstance(prompt, str):
            return self._tokenizer.prompt_tokens(prompt)
        if not isinstance(prompt, Sequence) or not prompt:
            kind = "is empty" if isinstance(prompt, Sequence) else f"is a {type(prompt).__name__}"
            raise InvalidPrompt(f"the prompt {kind}; give text, chat messages or token ids")
        if isinstance(prompt[0], Mapping):
            return self._require_chat().encode(cast("Sequence[Message]", prompt), **template_vars)
        tokens = cast("Sequence[int]", prompt)
        self._vocabulary.check_tokens(tokens)
        return [int(token) for token in tokens]

    def encode_batch(self, prompts: Sequence[Prompt]) -> list[list[int] | LlamaherdError]:
        """Token ids of many prompts; in place of those that are wrong, the error."""
        encoded: list[list[int] | LlamaherdError] = []
        for prompt in prompts:
            try:
                encoded.append(self.encode(prompt))
            except LlamaherdError as error:
                encoded.append(error)
        return encoded

    def raw_template(self, source: str) -> Callable[[Mapping[str, Any]], list[int]]:
        """A Jinja template for prompts without chat messages, in the sandbox.

        Args:
            source: The template. Control tokens written in it count.

        Returns:
            A function from variables to token ids. Text of variables never becomes a control
            token.

        Raises:
            TemplateError: It is no valid template; the function: it failed.
        """
        template = ChatTemplate(source, self._tokenizer)
        # Raw prompts have variables only; the message is not shown.
        messages = [{"role": "user", "content": ""}]
        return lambda variables: template.encode(messages, **variables)

    # ── generation ──────────────────────────────────────────────────────────────────────

    def generate(
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any
    ) -> GenerationResult:
        """Answer one prompt. Calls from several threads run as one batch.

        Args:
            prompt: Text, chat messages or token ids; see `encode`.
            config: How to generate.
            **options: Fields of `GenerationConfig`, instead of or on top of `config`.

        Returns:
            The answer. If the row failed, `success` is False and `error` says why.

        Raises:
            InvalidPrompt, TemplateError: The prompt is wrong.
            ConfigError: An option is wrong.
            ModelError: The model has only its vocabulary, or was closed.
        """
        sink = AnswerSink()
        return wait_for(self._default_engine(), self._request(prompt, config, options, sink), sink)

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: Any
    ) -> Iterator[str]:
        """Answer one prompt and give the text as it is written. Leaving early cancels the row.

        Args and errors are those of `generate`; the stream itself raises `RequestError` if
        the row fails.
        """
        sink = StreamSink()
        request = self._request(prompt, config, options, sink)
        return read_stream(self._default_engine(), request, sink)

    def open_engine(self, config: EngineConfig) -> Engine:
        """Start an engine of its own on this model; the caller closes it.

        Args:
            config: Batching options; `n_ctx` and the threads default to the model's.
        """
        self._check_weights()
        if config.thread_pool == ThreadPoolConfig():
            config = replace(config, thread_pool=self._threads)
        n_ctx = config.n_ctx or self.n_ctx
        factory = RunnerFactory(
            self._weights,
            self._facts,
            read_header(self._weights.path).sizes(),
            config,
            native=self._native,
            has_gpu=self._gpu_layers != 0,
            flash_attention=self._flash_attention,
        )
        engine = Engine(factory.open, self._vocabulary, config, n_ctx=n_ctx)
        self.close_before(engine)
        return engine

    def embed(
        self, texts: str | Sequence[str], config: EmbeddingConfig | None = None, **options: Any
    ) -> FloatArray:
        """Vectors of texts. Calls from several threads run as one batch, beside any generation.

        Args:
            texts: One text or many.
            config: How texts become vectors.
            **options: Fields of `EmbeddingConfig`, instead of or on top of `config`.

        Returns:
            Float32 ``[dim]`` for one text, ``[n, dim]`` in input order for many.

        Raises:
            RequestError: A text is empty, too long, or not a text; the message names the first
                ones. `embed_iter` gives the others nevertheless.
            ConfigError: An option is wrong, or there is no pooling, so that texts have different
                shapes.
            ModelError: The model has only its vocabulary, was closed, or cannot do this pooling.
        """
        return self.embeddings.embed(texts, _with_options(config or EmbeddingConfig(), options))

    def embed_iter(
        self, texts: Iterable[str], config: EmbeddingConfig | None = None, **options: Any
    ) -> Iterator[Embedding]:
        """Vectors of the texts of any iterable, in order, with an error for each that fails.

        Texts are taken a thousand at a time, so that memory does not grow with their number.
        Args and errors are those of `embed`.
        """
        return self.embeddings.iterate(texts, _with_options(config or EmbeddingConfig(), options))

    @property
    def embeddings(self) -> TextEmbeddings:
        """What makes vectors with this model."""
        return self._embeddings

    def close_before(self, user: Closeable) -> None:
        """Let `close` close something that uses the weights before it frees them."""
        with self._lock:
            self._users.add(user)

    def with_engine(self, engine: RowEngine) -> Model:
        """The same model, whose `generate` and `stream` run on `engine`."""
        twin = Model.__new__(Model)
        twin.__dict__.update(self.__dict__)
        twin._engine = engine
        return twin

    def close(self) -> None:
        """Close every engine on this model, then free the weights. May be called twice."""
        with self._lock:
            users = list(self._users)
        for user in users:
            user.close()
        self._embeddings.close()
        self._vocabulary.close()
        self._weights.close()
        self._native = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _default_engine(self) -> RowEngine:
        with self._lock:
            if self._engine is None:
                self._engine = self.open_engine(EngineConfig())
                weakref.finalize(self, self._engine.close)
            return self._engine

    def _request(
        self,
        prompt: Prompt,
        config: GenerationConfig | None,
        options: Mapping[str, Any],
        sink: AnswerSink | StreamSink,
    ) -> Request:
        config = _with_options(config or GenerationConfig(), options)
        return make_request(self.encode(prompt), config, sink)

    def _check_weights(self) -> None:
        if self._vocab_only:
            raise ModelError("this model was loaded with vocab_only=True: it can only tokenize")
        if self._weights.is_closed:
            raise ModelError("this model was closed; load it again")

    def _require_chat(self) -> ChatTemplate:
        if self._chat is None:
            raise TemplateError(
                "this model brings no chat template; give plain text, "
                "or load it with chat_template=<Jinja source>"
            )
        return self._chat


def _with_options(config: Config, options: Mapping[str, Any]) -> Config:
    return replace(config, **options) if options else config
