"""`docs/REJECTS.md`, from the reject codes themselves: `python -m pipeline.rejects_page > docs/REJECTS.md`.

In: `errors.RejectCode`. Out: the page, on standard output. Nothing is refused.
"""

from __future__ import annotations

import sys

from pipeline.errors import DETAIL_MAX_CHARS, PLACE_CODES, RejectCode, Stage

__all__ = ["rejects_page"]

_PLACES = ", ".join(f"`{code}`" for code in RejectCode if code in PLACE_CODES)

_HEAD = f"""# Rejects

Every item of a run ends as a row of `vectors` or as a row of `rejects` (of a rerank run: a score, or a `code` in its
row). `code` is one of these, and no other; `detail` says more in at most {DETAIL_MAX_CHARS} characters: no secret.
`retryable` codes are tried again each night, in `run.max_attempts` runs; the others when the item changes, or once with
`--set run.retry=CODE`. A changed item that fails with a retryable code keeps its previous vector (`kept_previous`).
Of items of equal content one is tried for all. Where its *place* failed
({_PLACES}),
the others have its reject with `attempts` 0 and `retryable`, `detail` names it, and they are tried at their own places
from the next night on.

`lakevec files OUTPUT --table rejects` lists the files.

<!-- made by `python -m pipeline.rejects_page > docs/REJECTS.md`; edit pipeline/errors.py instead -->
"""

_STAGES = {
    Stage.FETCH: "reading the bytes",
    Stage.DECODE: "bytes to pixels",
    Stage.PREPARE: "the item's prompt",
    Stage.ENCODE: "the model",
    Stage.RUN: "the run itself",
}


def rejects_page() -> str:
    """The page: a table a stage, in the order in which an item goes through them."""
    return _HEAD + "".join(_section(stage) for stage in Stage)


def _section(stage: Stage) -> str:
    codes = [code for code in RejectCode if code.meaning.stage is stage]
    if not codes:
        return ""
    rows = "".join(
        f"| `{code}` | {'yes' if code.meaning.retryable else 'no'} | {_cell(code.meaning.meaning)} "
        f"| {_cell(code.meaning.action)} |\n"
        for code in codes
    )
    about = f": {_STAGES[stage]}" if stage in _STAGES else ""
    return f"\n## `{stage}`{about}\n\n| code | retryable | what happened | what to do |\n|---|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(rejects_page())
