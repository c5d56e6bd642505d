"""Names of secrets: the lists differ in width, never in what they are about."""

from __future__ import annotations

import re

import pytest

from pipeline.secret_names import NAMED_IN_TEXT, is_kept_from_decoders, is_secret_option, is_secret_variable

VALUE = "deadbeefdeadbeef"

CERTAIN = [
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "API_KEY",
    "DB_PASSWORD", "MYSQL_PASSWD", "GPG_PASSPHRASE", "OAUTH_CLIENT_SECRET", "SSH_PRIVATE_KEY", "BUS_SHARED_ACCESS_KEY",
    "X_ACCESS_TOKEN", "URL_SIGNATURE",
]  # fmt: skip
IN_VARIABLES = ["HF_TOKEN", "MY_SECRET", "DB_CONNECTION_STRING", "BLOB_SAS", "SAS_OF_LAKE", "APP_CREDENTIAL"]
FOR_NO_DECODER = ["AWS_PROFILE", "HTTPS_PROXY", "SENTRY_DSN", "SSH_AUTH_SOCK", "SESSION_COOKIE", "GOOGLE_CLOUD_PROJECT"]
HARMLESS = ["PATH", "HOME", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "LANG", "PYTHONPATH", "MALLOC_ARENA_MAX"]


@pytest.mark.parametrize("name", CERTAIN)
def test_what_is_a_secret_in_a_text_is_one_everywhere(name: str) -> None:
    assert re.search(rf"(?i){NAMED_IN_TEXT}$", name)
    assert is_secret_variable(name, VALUE)


@pytest.mark.parametrize("name", [*CERTAIN, *IN_VARIABLES])
def test_what_is_a_secret_in_a_variable_is_kept_from_decoders(name: str) -> None:
    assert is_secret_variable(name, VALUE)
    assert is_secret_option(name)
    assert is_kept_from_decoders(name)


def test_decoders_keep_what_they_need() -> None:
    assert all(is_kept_from_decoders(name) for name in FOR_NO_DECODER)
    assert not any(is_kept_from_decoders(name) for name in HARMLESS)


def test_where_a_secret_lies_is_none() -> None:
    assert not is_secret_variable("AWS_WEB_IDENTITY_TOKEN_FILE", "var/token-file")
    assert not is_secret_variable("GOOGLE_APPLICATION_CREDENTIALS", "/etc/keys/lake.json")
    assert not is_secret_variable("TOKENIZERS_PARALLELISM", "falsefalse")
    assert not is_secret_variable("MY_TOKEN", "short")
    assert is_secret_variable("AWS_SECRET_ACCESS_KEY", "/beginswithaslash"), "as one in 64 of them does"


@pytest.mark.parametrize(
    "name",
    [
        "SECRET_NAME", "TOKEN_TYPE", "AWS_CREDENTIALS_PROVIDER", "LAKE_SECRET_NAMESPACE", "PASSWORD_POLICY", "TOKEN_ID",
        "GIT_CREDENTIAL_HELPER", "AWS_CREDENTIAL_EXPIRATION", "TOKEN_EXPIRES_IN", "SECRETS_SERVICE_PORT", "token-type",
    ],
)  # fmt: skip
def test_what_is_said_about_a_secret_is_none(name: str) -> None:
    assert not is_secret_variable(name, "production")
    assert not is_secret_option(name)
    assert is_kept_from_decoders(name), "a decoder needs none of it"


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "VAULT_SECRET_ID", "NAME_OF_SECRET", "MY_TYPE_TOKEN", "ID_TOKEN"]
)
def test_half_of_a_pair_is_a_secret(name: str) -> None:
    assert is_secret_variable(name, VALUE)


def test_numbers_are_sizes_unless_the_name_is_that_of_a_secret() -> None:
    for size in ("16777216", "1_000_000", "0.00000001", "-1.5e-12"):
        assert not is_secret_variable("MAX_TOKENS_PER_BATCH", size)
        assert is_secret_variable("DB_PASSWORD", size)
    assert is_secret_variable("API_TOKENS", "deadbeef12")
