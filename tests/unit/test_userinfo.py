"""Credentials in URIs are found wherever a URI's reader would look for them, and an `@` elsewhere stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import FetchConfig
from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.policy import FetchPolicy
from pipeline.storage import resolve
from pipeline.userinfo import carries_userinfo, userinfos, without_userinfo

POLICY = FetchPolicy.of(FetchConfig(schemes=("s3", "https"), hosts=("*",)))

WITH = [
    "s3://key:secret@bucket/x", "s3://key:sec/ret@bucket/x", "s3://key:/secret@bucket/x", "s3://key:a/b/c+d=@bucket",
    "s3://key:se@c/ret@bucket/x", "s3://token@bucket/x", "https://user:pa/ss@example.com/x", "s3://key:sec/ret@",
    "s3://key:sec/ret@bucket/a b 'c'", "s3://:pa/ss@bucket/0", "s3://:pa/ss/ret@bucket", "https://user:pa/ss@2x.com/x",
    "s3://key:sec/re@2x.png/ret@bucket/x", "https://user:ret@2x.png",
]  # fmt: skip
WITHOUT = [
    "s3://bucket/a@b.jpg", "s3://bucket/a:b/c@d.jpg", "https://example.com:443/a@b", "https://example.com/a:b@c",
    "s3://arn:aws:s3:eu-west-1:1:accesspoint/lake/a@b", "s3://bucket/u:p@x/y", "file:///a:b/c@d", "a/b:c@d", "",
    "s3://my-bucket:v2/file@2x.png", "s3://bucket/file@2x.png", "hdfs://:9000/a@b",
    "https://[2606:4700:4700::1111]/a@b", "https://[2606:4700:4700::1111]:443/a@b",
]  # fmt: skip


@pytest.mark.parametrize("uri", WITH)
def test_uris_with_credentials_are_refused_and_shown_without(uri: str) -> None:
    assert carries_userinfo(uri)
    with pytest.raises(RejectError, match="credentials") as refused:
        POLICY.check(uri)
    assert refused.value.code is RejectCode.URI_NOT_ALLOWED
    with pytest.raises(ConfigError, match="credentials"):
        resolve(uri, {})
    told = without_userinfo(f"no {uri} there")
    assert "@" not in told
    assert not any(part in told for part in ("ret", "key", "pa", "ss@", "token", "c+d"))


@pytest.mark.parametrize("uri", WITHOUT)
def test_what_has_an_at_elsewhere_is_as_it_was(uri: str) -> None:
    assert not carries_userinfo(uri)
    assert without_userinfo(f"no {uri} there") == f"no {uri} there"
    assert list(userinfos(uri)) == []
    if uri.startswith(("s3:", "https:")):
        POLICY.check(uri)


@pytest.mark.parametrize("name", ["img@2x.png", "a/img@3x.jpeg", "10@1x.webp"])
def test_an_image_for_finer_screens_ends_no_password(name: str) -> None:
    told = without_userinfo(f"no s3://key:sec/ret@bucket/{name}: 404, s3://b/{name}")
    assert told == f"no s3://bucket/{name}: 404, s3://b/{name}"


@pytest.mark.parametrize("scheme", ["abfs", "abfss"])
def test_the_spelling_of_azures_containers_that_works_is_named(scheme: str) -> None:
    uri = f"{scheme}://lake@account.dfs.core.windows.net/a.jpg"
    policy = replace(POLICY, schemes=frozenset({scheme}))  # its driver is no dependency
    for refuse in (policy.check, lambda each: resolve(each, {})):
        with pytest.raises((RejectError, ConfigError)) as refused:
            refuse(uri)
        assert f"write {scheme}://<container>/<path>" in str(refused.value)
        assert f"fetch.storage_options.{scheme}" in str(refused.value)
    assert policy.check(f"{scheme}://lake/a.jpg") == scheme


USERS = st.text("abcXYZ019_.-", min_size=1)
PASSWORDS = st.text("abcXYZ019/+=@:%!$", min_size=1).filter(lambda text: not text.partition("/")[0].isdecimal())
PLACES = st.text("abc019.-/", max_size=20)


@given(USERS, PASSWORDS, PLACES, st.text(max_size=5))
def test_whatever_a_password_holds_it_is_found(user: str, password: str, place: str, before: str) -> None:
    uri = f"s3://{user}:{password}@{place}"
    assert carries_userinfo(uri)
    assert list(userinfos(uri)) == [f"{user}:{password}"]
    assert without_userinfo(f"{before} {uri} '{uri}'") == f"{without_userinfo(before)} s3://{place} 's3://{place}'"


@given(st.text("a1:/@[]. '", max_size=40))
def test_only_userinfo_is_taken_out(text: str) -> None:
    found = list(userinfos(text))
    told = without_userinfo(text)
    assert len(told) == len(text) - sum(len(each) + 1 for each in found)
    assert without_userinfo(f"x://{text}") == f"x://{text}" or "@" in text
