"""What looks like a secret: by the name before it, by where it stands, or by its shape.

In: any text. Out: the same with what looks like a secret hidden. Nothing is refused. Each pattern passes over a text
once, whatever it holds: none begins anew within what it has looked at.
"""

from __future__ import annotations

import base64
import re

from pipeline.secret_names import NAMED_IN_TEXT, SECRET_OPTION_ENDS

__all__ = ["HIDDEN", "without_lookalikes"]

HIDDEN = "<hidden>"

_QUOTE = r"(?:b?\\*+['\"])?"
"""Also as Python shows bytes, and as JSON within JSON has it."""

_IS = rf"{_QUOTE}(?:\s*+[=:]\s*+|%3[AD]){_QUOTE}"

_WEB_QUERY = re.compile(r"(?i)(\bhttps?://[^\s'\"<>?#]*+)(?:[?#][^\s'\"<>]*+)?")
_QUERY = re.compile(r"\?[^\s'\"?=]*=[^\s'\"]*")
_NAMED = re.compile(rf"(?i)({NAMED_IN_TEXT}{_IS})([^\s'\"&,;}}<>%)]{{6,}}(?:%[^\s'\"&,;}}<>)]*)?)")
_TOKEN = re.compile(rf"(?i)(token{_IS})(?!/)(?=[a-z._~+/-]*[0-9])(?=[0-9._~+/-]*[a-z])[\w.~+/-]{{16,}}=*")
"""Of language models tokens have numbers, words and marks; one that is a secret is long, of letters and digits."""

_OPTION = re.compile(
    rf"(?i)((?<![\w-])--[\w-]++(?:{'|'.join(f'(?<={end})' for end in SECRET_OPTION_ENDS)})\s++['\"]?)"
    r"(?!-)[^\s'\"<>]{6,}"
)
_PWD = re.compile(rf"(?i)((?<![a-z0-9])pwd{_IS})(?!/)[^\s'\"&,;}}<>%)]{{6,}}")
"""Of a connection string; the variable of this name is a folder."""

_SHARED_ACCESS = re.compile(rf"(?i)(\bSharedAccessSignature{_IS})[^\s'\"<>;]+")
"""Of a connection string of Azure: a whole query, up to the semicolon."""

_HEADER = re.compile(rf"(?i)(\b(?:authorization|cookie){_QUOTE}\s*+[:=]\s*+{_QUOTE})[^\r\n'\"}}]+")
"""Of HTTP, to the end of the line or of the quoted text: a cookie header may hold several."""

_BEARER = re.compile(r"(?i)(\bbearer(?:\s++|%20))[A-Za-z0-9._~+/=-]{12,}")
_BASIC = re.compile(r"\b(?i:basic)(?:\s++|%20)")
_PAIR = re.compile(r"([A-Za-z0-9+/_-]{4,})(?:={1,2}|(?:%3[Dd]){1,2})?")
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SHAPES = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{12,}\b|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|sk-(?:proj|svcacct|admin|ant)-[\w-]{16,}|AIza[\w-]{35})"
)
"""AWS key ids; tokens of Hugging Face, GitHub, GitLab and Slack; keys of OpenAI, Anthropic and Google."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----"
    r"(?:(?:[^-]++|-(?!----))*+-----END[A-Z0-9 ]{0,50}(?:-----)?|(?:(?:\s|\\++[nr])*+[A-Za-z0-9+/=]{16,}+)++)"
)
"""PEM blocks, of their ends so much as is left; a line of base64 is longer than most words."""

_WEB_TOKENS = re.compile(r"\beyJ[\w.-]*+")
"""Where a JSON web token may be: its parts stand between dots, and the first two begin as JSON in base64."""

_TOKEN_HEAD = re.compile(r"\beyJ[\w-]{8}")
_MIN_CLAIMS_CHARS = 8


def without_lookalikes(text: str) -> str:
    """`text` with queries of URIs, headers of credentials, values named like secrets, keys and tokens hidden."""
    plain = _PRIVATE_KEY.sub(HIDDEN, text)
    plain = _QUERY.sub("?…", _WEB_QUERY.sub(_without_query, plain))
    plain = _SHARED_ACCESS.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1{HIDDEN}", plain))
    for named in (_NAMED, _TOKEN, _OPTION, _PWD):
        plain = named.sub(rf"\1{HIDDEN}", plain)
    # Before pairs, of which a token's beginning could be taken for one.
    plain = _SHAPES.sub(HIDDEN, _WEB_TOKENS.sub(_without_token, plain))
    return _without_pairs(_BEARER.sub(rf"\1{HIDDEN}", plain))


def _without_query(url: re.Match[str]) -> str:
    return url[0] if len(url[0]) == len(url[1]) else f"{url[1]}?…"


def _without_pairs(text: str) -> str:
    """`text` without what follows `Basic ` and is `user:password` in base64; `basic information` stays."""
    kept, at = [], 0
    for basic in _BASIC.finditer(text):
        found = _PAIR.match(text, basic.end())
        if found is not None and basic.end() >= at and _is_pair(found[1]):
            kept += [text[at : basic.end()], HIDDEN]
            at = found.end()
    return "".join([*kept, text[at:]])


def _is_pair(code: str) -> bool:
    if _PLAIN_WORD.fullmatch(code) or len(code) % 4 == 1:
        return False
    return b":" in base64.b64decode(code.replace("-", "+").replace("_", "/") + "=" * (-len(code) % 4))


def _without_token(run: re.Match[str]) -> str:
    parts = run[0].split(".")
    for head, claims, _ in zip(parts, parts[1:], parts[2:], strict=False):
        if len(claims) >= _MIN_CLAIMS_CHARS and _TOKEN_HEAD.search(head):
            return HIDDEN
    return run[0]
