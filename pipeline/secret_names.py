"""Names that tell of secrets, listed here and nowhere else: of variables, of options, and as texts have them.

In: a name; of a variable also its value, since some name the file where a secret lies. Out: whether what it names is a
secret. Nothing is refused.

The lists differ in how much a mistake costs. What a text calls a token is often a word of language models, so there the
names are whole ones. The value of a variable is hidden wherever it appears, so a word in its name is enough. A decoder
needs neither, so from it everything is kept that could be one.
"""

from __future__ import annotations

import re

__all__ = ["NAMED_IN_TEXT", "is_kept_from_decoders", "is_secret_option", "is_secret_variable"]

NAMED_IN_TEXT = (
    r"(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig|pass(?:word|wd|phrase)"
    r"|client[_-]?secret|(?:session|security|access|refresh|sas)[_-]?token|(?:account|api|private)[_-]?key"
    r"|(?:secret|shared)[_-]?(?:access[_-]?)?key)"
)
"""A pattern, to be compiled with IGNORECASE: of names whose values, behind `=` or `:`, are secrets in any text."""

_WORDS = (
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|SIGNATURE|(?:ACCESS|ACCOUNT|API|PRIVATE|SHARED)[_-]?KEY|CONNECTION_STRING"
    r"|(?<![A-Z])SAS(?![A-Z])"
)
_VARIABLE = re.compile(_WORDS, re.IGNORECASE)
_OPTION = re.compile(f"{_WORDS}|PASS|KEY", re.IGNORECASE)
_NOT_FOR_DECODERS = re.compile(
    rf"{_WORDS}|AWS_|AZURE_|GOOGLE_|GCP_|GCLOUD|PRIVATE|AUTH|COOKIE|_DSN|PROXY", re.IGNORECASE
)

_PLACE = re.compile(r"_(FILE|PATH|DIR|URI|URL|HOST)$|^TOKENIZERS_", re.IGNORECASE)
"""Variables that say where a secret lies, and those of a library that is about other tokens."""

_NEVER_PLACE = re.compile(r"(SECRET|KEY|TOKEN|PASSWORD)$", re.IGNORECASE)
"""Of other variables a value that begins with a slash is a path; but one secret key in 64 begins so, too."""

_MIN_VARIABLE_CHARS = 8
"""A shorter value is a switch, as `true`, or a word that many texts hold."""


def is_secret_variable(name: str, value: str) -> bool:
    """Whether the environment's variable `name` holds a secret, `value`, and not the place of one."""
    return bool(
        len(value) >= _MIN_VARIABLE_CHARS
        and _VARIABLE.search(name)
        and not _PLACE.search(name)
        and (not value.startswith("/") or _NEVER_PLACE.search(name))
    )


def is_secret_option(name: str) -> bool:
    """Whether an option of a file system that is called `name` holds a secret, be it a number."""
    return _OPTION.search(name) is not None


def is_kept_from_decoders(name: str) -> bool:
    """Whether the environment's variable `name` could help whoever takes a decoder over; it needs none such."""
    return _NOT_FOR_DECODERS.search(name) is not None
