"""Names that tell of secrets, listed here and nowhere else: of variables, of options, and as texts have them.

In: a name; of a variable also its value, since some name the file where a secret lies. Out: whether what it names is a
secret. Nothing is refused.

The lists differ in how much a mistake costs. What a text calls a token is often a word of language models, so there the
names are whole ones. The value of a variable is hidden wherever it appears, so a word in its name is enough. A decoder
needs neither, so from it everything is kept that could be one.
"""

from __future__ import annotations

import re

__all__ = ["NAMED_IN_TEXT", "SECRET_OPTION_ENDS", "is_kept_from_decoders", "is_secret_option", "is_secret_variable"]

NAMED_IN_TEXT = (
    r"(?:(?<![a-z0-9])(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature|sig|secret"
    r"|client[_-]?secret|(?:session|security|access|refresh|sas|auth|api|private)[_-]?token"
    r"|(?:account|api|private)[_-]?key|(?:secret|shared)[_-]?(?:access[_-]?)?key)|pass(?:word|wd|phrase))"
)
"""A pattern, to be compiled with IGNORECASE: of names whose values, behind `=` or `:`, are secrets in any text.
Before that of a password may stand its program's, as in `PGPASSWORD`."""

SECRET_OPTION_ENDS = (
    "password", "passwd", "passphrase", "secret", "secret-key", "access-key", "api-key", "private-key", "auth-token",
)  # fmt: skip
"""How options of command lines end whose next word is a secret."""

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

_WHOLE = re.compile(r"(?:SECRET|KEY|TOKEN|PASSW(?:OR)?D|PASSPHRASE)$", re.IGNORECASE)
"""Of other variables a value that begins with a slash is a path, and one of digits a size. But of secret keys one in 64
begins so, and passwords of digits there are."""

_ABOUT = re.compile(
    r"(?:^|[_-])(?:NAME|NAMESPACE|TYPE|ID|PROVIDER|POLICY|HELPER|EXPIRATION|EXPIRY|EXPIRES|EXPIRES_(?:AT|IN)|TTL"
    r"|TIMEOUT|LIMIT|LENGTH|COUNT|VERSION|ALGORITHM|METHOD|MODE|FORMAT|BACKEND|SOURCE|PREFIX|SUFFIX|HEADER|REGION"
    r"|ENDPOINT|ISSUER|AUDIENCE|SCOPES?|USER|USERNAME|ARN|ENABLED|REQUIRED|PORT|ADDR|PROTO)$",
    re.IGNORECASE,
)
"""Names of what is said about a secret, whose values are words that texts need."""

_NEVER_ABOUT = re.compile(r"(?:KEY|SECRET)[_-]?ID$", re.IGNORECASE)
"""Half of a pair that opens a store, as `AWS_ACCESS_KEY_ID`."""

_NUMBER = re.compile(r"[+-]?[0-9_.,]+(?:e[+-]?[0-9]+)?", re.IGNORECASE)

_MIN_VARIABLE_CHARS = 8
"""A shorter value is a switch, as `true`, or a word that many texts hold."""


def is_secret_variable(name: str, value: str) -> bool:
    """Whether the environment's variable `name` holds a secret, `value`, and not the place, name or size of one."""
    return bool(
        len(value) >= _MIN_VARIABLE_CHARS
        and _VARIABLE.search(name)
        and not _PLACE.search(name)
        and not _is_about(name)
        and (_WHOLE.search(name) or not (value.startswith("/") or _NUMBER.fullmatch(value)))
    )


def is_secret_option(name: str) -> bool:
    """Whether an option of a file system that is called `name` holds a secret, be it a number."""
    return _OPTION.search(name) is not None and not _is_about(name)


def is_kept_from_decoders(name: str) -> bool:
    """Whether the environment's variable `name` could help whoever takes a decoder over; it needs none such."""
    return _NOT_FOR_DECODERS.search(name) is not None


def _is_about(name: str) -> bool:
    return _ABOUT.search(name) is not None and _NEVER_ABOUT.search(name) is None
