"""Secrets are taken out of any text, whether they are known or only look like some; everything else stays."""

from __future__ import annotations

import base64
import os
import pickle
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Config, FetchConfig
from pipeline.errors import ConfigError, scrub
from pipeline.manifest.naming import shown
from pipeline.policy import FetchPolicy
from pipeline.redaction import (
    HIDDEN,
    LONGEST_CHARS,
    redact,
    redact_error,
    redacted_errors,
    remember_options,
    shown_options,
)
from pipeline.storage import open_store

LOOKS_LIKE_ONE = {
    "presigned": (
        "GET https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Signature=deadbeefdeadbeef failed",
        "deadbeef",
    ),
    "presigned, no value": ("https://h/p?deadbeefdeadbeef", "deadbeef"),
    "fragment": ("https://h/p#access_token=deadbeefdeadbeef", "deadbeef"),
    "relative": ("a/b.jpg?sig=deadbeefdeadbeef: no such file", "deadbeef"),
    "encoded": ("u=https%3A%2F%2Fh%2Fp%3FX-Amz-Signature%3Ddeadbeefdeadbeef", "deadbeef"),
    "encoded twice": ("%253FX-Amz-Signature%3Ddeadbeefdeadbeef", "deadbeef"),
    "in words": ("the server said X-Amz-Signature=deadbeefdeadbeef is wrong", "deadbeef"),
    "canonical request": ("host:x\nX-Amz-Security-Token=deadbeefdeadbeef\n", "deadbeef"),
    "userinfo": ("s3://user:deadbeef@bucket/key", "deadbeef"),
    "userinfo with a slash": ("cannot open s3://key:dead/beef@bucket/key: denied", "beef"),
    "userinfo with both": ("cannot open s3://key:x@dead/beef@bucket/key: denied", "beef"),
    "userinfo with an at": ("ftp://user:dead@beef@host/key", "beef"),
    "bearer": ("{'Authorization': 'Bearer deadbeef.deadbeef'}", "deadbeef"),
    "bearer alone": ("sent bearer deadbeefdeadbeef", "deadbeef"),
    "basic": ("Authorization: Basic ZGVhZDpiZWVm", "ZGVhZDpiZWVm"),
    "key id": ("key AKIADEADBEEFDEADBEEF is unknown", "DEADBEEF"),
    "session key id": ("(ASIADEADBEEFDEADBEEF)", "DEADBEEF"),
    "hugging face": ("401 for hf_deadbeefDEADBEEFdead", "deadbeef"),
    "json": ('{"aws_secret_access_key": "deadbeefdeadbeef"}', "deadbeef"),
    "repr": ("{'password': 'deadbeefdeadbeef'}", "deadbeef"),
    "azure key": ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=dead/beef+deadbeef==;", "dead/beef"),
    "azure signature": ("BlobEndpoint=https://a/;SharedAccessSignature=sv=2026-01-01&sp=rl&sig=deadbeef%3D", "2026"),
    "azure bus": ("Endpoint=sb://a/;SharedAccessKeyName=n;SharedAccessKey=deadbeefdeadbeef=", "deadbeef"),
    "variable": ("AZURE_STORAGE_ACCOUNT_KEY=deadbeefdeadbeef== MINIO_ROOT_PASSWORD=deadbeef", "deadbeef"),
    "header of a key": ("{'x-api-key': 'deadbeefdeadbeef'}", "deadbeef"),
    "basic alone": ("sent Basic ZGVhZDpiZWVm and was refused", "ZGVhZDpiZWVm"),
    "basic without padding": ("{'auth': 'basic cmVhZGVyOmRlYWRiZQ'}", "cmVhZGVyOmRlYWRiZQ"),
    "basic encoded": ("h=Basic%20cmVhZGVyOmRlYWRiZQ%3D%3D", "cmVhZGVyOmRlYWRiZQ"),
    "basic in latin-1": (f"Basic {base64.b64encode('ü:dead'.encode('latin-1')).decode()}", "OmRlYWQ"),
    "password of a program": ("PGPASSWORD=deadbeefdeadbeef psql", "deadbeef"),
    "token": ("token=deadbeef0123deadbeef", "deadbeef"),
    "token of a kind": ("{'id_token': 'dead.beef-0123/dead=='}", "beef"),
    "token in JSON": ('{"token": "deadbeef0123deadbeef"}', "deadbeef"),
    "password after an option": ("mount --db-password deadbeef failed", "deadbeef"),
    "secret key after an option": ("--secret-access-key 'dead/beef+dead' --region x", "beef"),
    "password of a connection": ("Server=h;Uid=u;Pwd=deadbeef;", "deadbeef"),
    "secret": ("secret=deadbeefdeadbeef", "deadbeef"),
    "secret of an option": ("--set fetch.storage_options.s3.secret=deadbeefdeadbeef", "deadbeef"),
    "secret in JSON": ('{"secret": "deadbeefdeadbeef"}', "deadbeef"),
    "header of a token": ("x-auth-token: deadbeefdeadbeef", "deadbeef"),
    "header of the proxy": ("Proxy-Authorization: Digest deadbeef", "deadbeef"),
    "header in bytes": ("{b'authorization': b'deadbeef'}", "deadbeef"),
    "cookie": ("GET / with Cookie: a=1; session=deadbeef", "deadbeef"),
    "cookie that is set": ("{'Set-Cookie': 'a=deadbeef; Path=/'}", "deadbeef"),
    "JSON in JSON": (r'{"body": "{\"password\": \"deadbeefdeadbeef\"}"}', "deadbeef"),
    "JSON in JSON in JSON": (r"{\\\"password\\\": \\\"deadbeefdeadbeef\\\"}", "deadbeef"),
    "userinfo without a user": ("redis://:dead/beef/dead@h:6379/0", "beef"),
    "private key": (f"-----BEGIN PRIVATE KEY-----\n{'deadbeef' * 8}\nbeef\n-----END PRIVATE KEY-----\n", "beef"),
    "private key of a kind": (
        f"'-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{'deadbeef' * 8}\n-----END RSA PRIVATE KEY-----'",
        "beef",
    ),
    "private key in JSON": (
        rf"-----BEGIN PRIVATE KEY-----\n{'deadbeef' * 8}\nbeef\n-----END PRIVATE KEY-----\n",
        "beef",
    ),
    "private key cut short": (rf"-----BEGIN EC PRIVATE KEY-----\n{'deadbeef' * 8}\n{'deadbeef' * 4}", "beef"),
    "gitlab": ("glpat-deadbeefdeadbeefdead", "deadbeef"),
    "github, fine-grained": ("github_pat_deadbeefdeadbeefdead_deadbeef", "deadbeef"),
    "slack": ("xoxb-123456789012-deadbeef and xoxp-123456789012-deadbeef", "deadbeef"),
    "openai": ("sk-proj-deadbeef_deadbeef-deadbeef", "deadbeef"),
    "google": ("AIzadeadbeefdeadbeefdeadbeefdeadbeefdea", "deadbeef"),
    "azure": ("BlobEndpoint=https://a/;AccountName=a;account_key=deadbeefdeadbeef==", "deadbeef"),
}


@pytest.mark.parametrize("name", LOOKS_LIKE_ONE)
def test_what_looks_like_a_secret(name: str) -> None:
    text, secret = LOOKS_LIKE_ONE[name]
    assert secret not in redact(text)
    assert secret not in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a?.parquet has no files",
        "the scheme 'ftp' is not in fetch.schemes",
        "item 7: IMAGE_UNREADABLE: broken PNG file (chunk b'\\x00')",
        "tokens: 12, token_budget: auto, key=id",
        "[Errno 111] Connect call failed ('127.0.0.1', 8333)",
        "mail user@example.com about C:/x@y",
        "s3://bucket/a@b.jpg, s3://bucket/day:1/a@b.jpg and file:///a:b/c@d.jpg",
        "http://host:8080/a@b and http://[::1]:80/a@b and hdfs://node:9000/user@x",
        "s3://arn:aws:s3:eu-west-1:1:accesspoint/lake/a@b.jpg",
        "basic information, Basic authentication and BASIC usage of basic auth",
        "the signature of f differs; password: short; a design: modern-one",
        "expected -----BEGIN PRIVATE KEY----- in the file, found -----BEGIN CERTIFICATE-----\nMIIC",
        "the secret of cookies: none; SECRET_NAME=production, glpat-short, sk-learn-is-a-library-of-note",
        "eyJhbGciOiJIUzI1NiJ9 is only a part, as eyJ.x",
        "eos_token=<|im_end|>, pad_token: 151643, max_tokens=8192123456789012345, token=/models/qwen3/tokenizer.json",
        "PWD=/work/lake OLDPWD=/var/tmp, --password --verbose, --tokenizer-path models/qwen3vl2b",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("scheme", ["Bearer", "Basic", "AWS4-HMAC-SHA256"])
def test_a_header_is_hidden_whole(scheme: str) -> None:
    assert redact(f"Authorization: {scheme} deadbeefdeadbeef") == f"Authorization: {HIDDEN}"
    assert redact(f"{{b'authorization': b'{scheme} x'}}") == f"{{b'authorization': b'{HIDDEN}'}}"


ACCOUNT = {
    "type": "service_account",
    "project_id": "my-lake-project",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{'deadbeef' * 8}\n{'beefdead' * 8}\n-----END PRIVATE KEY-----\n",
    "client_email": "lake@my-lake-project.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def test_what_an_account_says_beside_its_key_stays() -> None:
    options = {"gs": {"token": ACCOUNT}, "s3": {"region": "eu-central-1", "endpoint": "minio.lake.internal"}}
    remember_options(options)
    harmless = (
        "lake@my-lake-project.iam.gserviceaccount.com, a service_account of my-lake-project, "
        "got 403 from https://oauth2.googleapis.com/token; minio.lake.internal in eu-central-1 is down"
    )
    assert redact(harmless) == harmless
    shown = str({scheme: shown_options(each) for scheme, each in options.items()})
    assert "my-lake-project" in shown
    assert "minio.lake.internal" in shown
    assert "beef" not in shown


@pytest.mark.parametrize("newline", ["\n", "\r\n", r"\n"])
def test_each_line_of_a_known_secret_is_one(newline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ACCOUNT["private_key"].replace("\n", newline)
    monkeypatch.setenv("LAKE_PRIVATE_KEY", key)
    assert redact(f"line 2: {'beefdead' * 8}") == f"line 2: {HIDDEN}"
    assert redact("no -----BEGIN PRIVATE KEY----- there") == "no -----BEGIN PRIVATE KEY----- there"


def test_a_long_text_is_searched_fast_for_the_lines_of_keys() -> None:
    lines = [base64.b64encode(os.urandom(48)).decode() for _ in range(50)]
    text = base64.b64encode(os.urandom(75_000)).decode()

    def seconds() -> float:
        started = time.thread_time()
        redact(text)
        return time.thread_time() - started

    remember_options({"sftp": {"pkey": "\n".join(lines)}})
    assert lines[7] not in redact(f"{text}{lines[7]}{text}")
    assert min(seconds() for _ in range(3)) < 0.3


SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=8, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(SECRETS, st.text(max_size=20), st.text(max_size=20))
def test_a_known_secret_is_found_however_it_is_spelt(secret: str, before: str, after: str) -> None:
    remember_options({"s3": {"secret": secret}})
    for spelt in (secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]):
        assert spelt not in redact(f"{before} {spelt} {after}").replace(HIDDEN, "")


PIECES = [
    "Basic ", "basic%20", "Bearer ", "Authorization: ", "password=", "AccountKey=", "sig=", "eyJ", "://",
    "a:b@", "/", "?", "=", "\u017f\u017f\u017f\u017f", "\u212a\u212a", "\u0661\u0662", "\udc80", "\0", "%3D",
    "YTpj", "_-_-", "+-/_", "'", " ", ".", "\n", "hf_", "AKIA",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_no_text_is_too_odd_to_be_redacted(text: str) -> None:
    told = redact(
        f"{text} Basic YTpi {text}\n{text} hf_deadbeefdeadbeefdead {text}\n{text}-eyJdeadbeef.deadbeef.dead {text}"
    )
    assert "Basic YTpi" not in told
    assert "deadbeef" not in told
    assert "\n" not in scrub(text)


def test_a_key_that_is_a_word_is_no_part_of_others() -> None:
    remember_options({"s3": {"key": "minioadmin", "secret": "minioadmin7"}})
    assert redact("minioadmin and minioadmins, xminioadmin7x") == f"{HIDDEN} and minioadmins, x{HIDDEN}x"


def test_secrets_lie_deep_in_options() -> None:
    options = {
        "s3": {
            "endpoint_url": "http://reader:endpointpass@minio:9000",
            "mirror_url": ["http://reader:slashed/pass@m/", "http://reader:percent%2Fpass@m/"],
            "client_kwargs": {"region_name": "eu-west-1", "aws_session_token": "deepsession"},
            "config_kwargs": {"s3": {"addressing_style": "path"}, "proxies": ["http://p:proxypass@h"]},
        },
        "sftp": {"host": "h", "password": 12345678},
    }
    remember_options(options)
    told = str({scheme: shown_options(each) for scheme, each in options.items()})
    assert "eu-west-1" in told
    assert "'addressing_style': 'path'" in told
    for secret in ("endpointpass", "slashed/pass", "percent/pass", "deepsession", "proxypass", "12345678"):
        assert secret not in told
        assert secret not in redact(f"it said {secret}")


def test_a_variable_is_known_as_soon_as_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "comeslater" in redact("comeslater1")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "comeslater1")
    assert redact("comeslater1") == HIDDEN
    monkeypatch.setenv("MY_SERVICE_TOKEN", "comeslater2")
    assert redact("comeslater1 comeslater2") == f"{HIDDEN} {HIDDEN}", "what was a secret stays one"
    monkeypatch.delenv("MY_SERVICE_TOKEN")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "comeslater3")
    assert redact("comeslater3") == HIDDEN


def test_variables_are_only_looked_at_when_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr("pipeline.redaction.is_secret_variable", lambda name, _: looked_at.append(name) or False)
    redact("x")
    assert set(looked_at) == set(os.environ)
    looked_at.clear()
    redact("x")
    assert looked_at == []


def test_the_environment_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "fromtheenvironment1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/home/me/.aws/credentials")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    for name in ("SECRET_NAME", "TOKEN_TYPE", "CREDENTIALS_PROVIDER", "LAKE_SECRET_NAMESPACE", "PASSWORD_POLICY"):
        monkeypatch.setenv(name, "production")
    assert redact("s3://production/lake") == "s3://production/lake"
    assert redact("x fromtheenvironment1 falsefalse /home/me/.aws/credentials") == (
        f"x {HIDDEN} falsefalse /home/me/.aws/credentials"
    )


def test_a_variable_that_is_no_text_is_known_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "dead:\udcffbeef")
    assert redact("x dead:\udcffbeef") == f"x {HIDDEN}"


def test_nothing_that_travels_shows_its_options() -> None:
    options = {"memory": {"token": "travellingsecret"}}
    policy = FetchPolicy.of(FetchConfig(storage_options=options), None)
    store = open_store("memory://x", options)
    config = Config.model_validate(
        {
            "manifest": {"path": "m"},
            "output": {"path": "o"},
            "model": {"path": "m"},
            "fetch": {"storage_options": options},
        }
    )
    for each in (policy, store, config, config.fetch):
        assert "travellingsecret" not in repr(each)
        assert "travellingsecret" not in str(each)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert pickle.loads(pickle.dumps(store)) == store


def test_an_error_is_redacted_as_it_is_and_with_its_causes() -> None:
    remember_options({"s3": {"secret": "errorsecret1"}})

    @redacted_errors
    def fail() -> None:
        try:
            raise PermissionError(13, "denied for errorsecret1", "/x/errorsecret1")
        except PermissionError as error:
            raise ValueError("with errorsecret1") from error

    with pytest.raises(ValueError, match=HIDDEN) as caught:
        fail()
    cause = caught.value.__cause__
    assert isinstance(cause, PermissionError)
    assert cause.errno == 13
    assert "errorsecret1" not in f"{caught.value!r} {cause!r} {cause} {cause.filename}"

    @redacted_errors
    def generate() -> object:
        yield 1
        raise ValueError("with errorsecret1")

    made = iter(generate())  # type: ignore[call-overload]
    assert next(made) == 1
    with pytest.raises(ValueError, match=HIDDEN):
        next(made)


def test_an_error_that_is_its_own_cause_ends() -> None:
    one, two = ValueError("a"), ValueError("b")
    one.__cause__, two.__cause__ = two, one
    redact_error(one)


def test_our_own_errors_are_redacted_as_they_are_made() -> None:
    remember_options({"s3": {"secret": "ownerrorsecret"}})
    assert str(ConfigError("bad ownerrorsecret")) == f"bad {HIDDEN}"
    assert str(pickle.loads(pickle.dumps(ConfigError("bad ownerrorsecret")))) == f"bad {HIDDEN}"


def test_basic_authorization_of_a_known_pair() -> None:
    remember_options({"http": {"auth": "reader:basicsecret"}})
    assert "basicsecret" not in redact("reader:basicsecret")
    pair = base64.b64encode(b"reader:basicsecret").decode()
    assert pair not in redact(f"header {pair}")


BEGINNINGS = [
    "?", "http://", "eyJ-", "eyJ.", "://", "://a:", "://a:/", "a@", "s3://a:b/", "s3://a:b@", "http://a?", "?a=", "%3D",
    "password", "password ", "password=%", "basic ", "bearer ", "basic", "authorization:", "authorization ", "hf_",
    "-----BEGIN PRIVATE KEY-----a", "-----BEGIN", "cookie:", "password\\", "\\", "://:/", "@2x.png",
    "SharedAccessSignature", "SharedAccessSignature=", "AKIA", "ghp_", "X-Amz-Signature=", " ", "'", "token=",
    "token:a", "token", "--password ", "--a-", "--a", "--", "pwd=", "pwd",
]  # fmt: skip


@pytest.mark.parametrize("hostile", BEGINNINGS)
def test_texts_that_are_all_beginnings_of_secrets_take_no_longer_than_others(hostile: str) -> None:
    def seconds(text: str) -> float:
        took = []
        for _ in range(2):
            started = time.thread_time()
            assert len(redact(text)) <= LONGEST_CHARS + 10
            took.append(time.thread_time() - started)
        return min(took)

    # Where a pattern begins anew at each of them, four times the text takes sixteen times as long.
    short, long = (seconds(hostile * (chars // len(hostile))) for chars in (25_000, 100_000))
    assert long < 10 * max(short, 0.004)
    assert long < 0.3


def test_no_half_of_a_secret_is_left_where_a_text_is_cut() -> None:
    secret = "AKIADEADBEEFDEADBEEF"  # gitleaks:allow
    for before in (20_000, LONGEST_CHARS // 2, LONGEST_CHARS, 300_000):
        for shift in (0, 9):
            padding = "x " * ((before - shift) // 2)
            for told in (
                redact(f"{padding} {secret} {padding}"),
                scrub(f"{' ' * len(padding)}{secret}{' ' * 100}"),
            ):
                assert "AKIADE" not in told
                assert "DBEEF" not in told
    assert "…" in redact("x " * 200_000)
    assert "AKIADE" not in shown(f"{'x ' * 35}{secret}"), "of a value that a message cuts short"
