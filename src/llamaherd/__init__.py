"""Many prompts through one local language model (GGUF), at once.

>>> from llamaherd import BatchGenerationConfig, ParallelProcessor
>>> with ParallelProcessor("demo") as processor:
...     results = processor.batch_generate(["Once upon a time"], BatchGenerationConfig(seed=1))

Names are imported when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "llamaherd.aio.context": ("AsyncContext",),
    "llamaherd.aio.model": ("AsyncModel",),
    "llamaherd.aio.pool": ("ModelPool", "PoolStats"),
    "llamaherd.aio.runtime": ("Runtime", "RuntimeMetrics", "SpawnedTask"),
    "llamaherd.aio.stream": ("StreamPiece", "TokenStream"),
    "llamaherd.aio.tasks": ("TaskManager", "WorkerState", "WorkerStatus"),
    "llamaherd.analysis.explore": ("Exploration", "Variant", "explore"),
    "llamaherd.analysis.machine": ("HardwareProfile", "hardware_profile"),
    "llamaherd.analysis.prompt_options": ("PromptOptions",),
    "llamaherd.analysis.quick": ("generate_parallel", "quick_llama"),
    "llamaherd.analysis.report": ("report",),
    "llamaherd.analysis.tables": ("widen",),
    "llamaherd.analysis.validate": ("AnnotatorScore", "ClassScore", "Validation", "validate"),
    "llamaherd.config": (
        "AsyncConfig",
        "BatchConfig",
        "BatchGenerationConfig",
        "BatchingStrategy",
        "EmbeddingConfig",
        "EngineConfig",
        "GenerationConfig",
        "StreamConfig",
        "ThreadPoolConfig",
    ),
    "llamaherd.embeddings.embedder": ("Embedder",),
    "llamaherd.embeddings.late_interaction": (
        "LateInteractionHits",
        "LateInteractionScorer",
        "maxsim",
    ),
    "llamaherd.embeddings.multi_vector": ("MultiVectorGenerator",),
    "llamaherd.embeddings.reranker": ("PairScore", "RankedDocuments", "Reranker"),
    "llamaherd.errors": (
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
        "JobChanged",
        "KvExhausted",
        "LlamaherdError",
        "ModelError",
        "ModelLoadError",
        "ModelNotFound",
        "OutputError",
        "OutputIncomplete",
        "ProcessorStopped",
        "PromptTooLong",
        "QueueFull",
        "RequestCancelled",
        "RequestError",
        "RequestTimeout",
        "TemplateError",
        "UnknownRequest",
        "WorkerCrashed",
    ),
    "llamaherd.jobs.job": ("JobSummary", "run_job"),
    "llamaherd.jobs.vectors": ("embed_job",),
    "llamaherd.models.info": ("ModelInfo",),
    "llamaherd.models.model": ("Model",),
    "llamaherd.processing.classify": ("Classification", "Classifier", "classify"),
    "llamaherd.processing.parallel": ("ChoiceScores", "ItemResult", "ParallelProcessor"),
    "llamaherd.queueing.processor": ("BatchProcessor",),
    "llamaherd.queueing.request": ("BatchRequest", "BatchResult"),
    "llamaherd.queueing.stats": ("BatchStats",),
    "llamaherd.results": (
        "Embedding",
        "FinishReason",
        "GenerationResult",
        "ProcessorStats",
        "RowError",
        "TokenLogprob",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted([*_MODULE_OF, "__version__"])

if TYPE_CHECKING:
    from llamaherd.aio.context import *
    from llamaherd.aio.model import *
    from llamaherd.aio.pool import *
    from llamaherd.aio.runtime import *
    from llamaherd.aio.stream import *
    from llamaherd.aio.tasks import *
    from llamaherd.analysis.explore import *
    from llamaherd.analysis.machine import *
    from llamaherd.analysis.prompt_options import *
    from llamaherd.analysis.quick import *
    from llamaherd.analysis.report import *
    from llamaherd.analysis.tables import *
    from llamaherd.analysis.validate import *
    from llamaherd.config import *
    from llamaherd.embeddings.embedder import *
    from llamaherd.embeddings.late_interaction import *
    from llamaherd.embeddings.multi_vector import *
    from llamaherd.embeddings.reranker import *
    from llamaherd.errors import *
    from llamaherd.jobs.job import *
    from llamaherd.jobs.vectors import *
    from llamaherd.models.info import *
    from llamaherd.models.model import *
    from llamaherd.processing.classify import *
    from llamaherd.processing.parallel import *
    from llamaherd.queueing.processor import *
    from llamaherd.queueing.request import *
    from llamaherd.queueing.stats import *
    from llamaherd.results import *


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'llamaherd' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
