"""What the library's classes have in common: a loaded model beside the processes that decode for it.

In: how to prepare, what may be read, how to load. Out: a pool and a model that are ready together. Refused
(ConfigError): a config that cannot be, a tokenizer or weights that do not fit, any use after `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from pydantic import ValidationError

from pipeline.config import FetchConfig, InputsConfig, ModelConfig
from pipeline.errors import ConfigError, RejectCode, scrub
from pipeline.policy import FetchPolicy
from pipeline.prepare_pool import Made, PreparePool
from pipeline.types import Reject

__all__ = [
    "SLAB_ITEMS",
    "FrontDoor",
    "caller_policy",
    "encoding_failure",
    "name_failures",
    "named_model",
    "with_instruction",
]

SLAB_ITEMS = 64
"""Items prepared in one go: at most 340 MiB of the largest images, and many forwards' worth."""

NAMED_FAILURES = 5
"""So many failures are spelt out in a message; the error's `failures` has them all."""


class Running(Protocol):
    """A loaded model."""

    @property
    def device(self) -> str:
        """Where it runs, as torch spells it."""


Model = TypeVar("Model", bound=Running)
Inputs = TypeVar("Inputs", bound=InputsConfig)


class FrontDoor(Generic[Made, Model]):
    """A model ready for requests. Use it as a context manager, or `close` it."""

    def __init__(self, pool: PreparePool[Made], load: Callable[[], Model]) -> None:
        """Raises ConfigError, `pool` then closed."""
        self._closed = False
        self._pool = pool
        try:
            # A thread reads the tokenizer while this one reads the weights.
            checked = self._pool.check()
            self._model = load()
            checked.result()
        except BaseException:
            self._pool.close()
            raise

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`."""
        return self._model.device

    def close(self) -> None:
        """End the decoding processes; after that every request is refused."""
        self._closed = True
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigError(f"this {type(self).__name__} is closed; make a new one")


def named_model(model: str, revision: str | None, dtype: str) -> ModelConfig:
    """The config of `model`, everything but `revision` and `dtype` as by default. Raises ConfigError."""
    try:
        return ModelConfig.model_validate({"path": model, "revision": revision, "dtype": dtype})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from None


def caller_policy(fetch: FetchConfig | None) -> FetchPolicy:
    """What may be read where `fetch` or, if None, the defaults hold."""
    # A caller names each file, unlike a manifest that came from somewhere: the whole disk stands in for its folder.
    return FetchPolicy.of(fetch or FetchConfig(), "/")


def with_instruction(inputs: Inputs, instruction: str | None) -> Inputs:
    """`inputs`, its instruction replaced by `instruction` unless that is None."""
    return inputs if instruction is None else inputs.model_copy(update={"instruction": instruction})


def encoding_failure(place: str, problem: tuple[RejectCode, str] | None, not_finite: str) -> Reject:
    """Why the item at `place` got nothing out of the model: its `problem` there, or what is `not_finite`."""
    code, detail = problem or (RejectCode.NON_FINITE, not_finite)
    return Reject(place, code, scrub(detail))


def name_failures(failures: Mapping[str, Reject]) -> str:
    """The first of `failures`, which are by place, and how many more there are."""
    named = [f"{place}: {_why(reject)}" for place, reject in failures.items()]
    more = f"; and {len(named) - NAMED_FAILURES} more" if len(named) > NAMED_FAILURES else ""
    return f"{'; '.join(named[:NAMED_FAILURES])}{more}"


def _why(reject: Reject) -> str:
    return f"{reject.code} ({reject.detail})" if reject.detail else str(reject.code)
