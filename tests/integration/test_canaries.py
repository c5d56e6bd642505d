"""No secret leaves a run: planted canaries are in no byte of what a failing job and every command say and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.job import run_job as run_job_here
from pipeline.redaction import HIDDEN, _known
from tests.fixtures.canaries import (
    DRIVER,
    ENVIRONMENT,
    HF_TOKEN,
    OPTIONS,
    PASSWORD,
    SAS,
    SECRET,
    SESSION,
    SIGNATURE,
    URIS,
    Canary,
    armed,
    assert_nothing_leaked,
    leaks,
)
from tests.fixtures.jobs import ROOT, read_live, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

CONFIG = "config.yaml"
"""The user's own file, which holds the secrets that the user wrote into it."""


def planted(folder: Path, address: str, media: dict[str, str] | None = None, **sections: dict[str, Any]) -> Path:
    """A config full of canaries, over a manifest whose URIs hold more of them."""
    (folder / "site").mkdir(parents=True, exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(DRIVER)
    media = URIS if media is None else media
    rows: list[dict[str, str | None]] = [{"id": f"t{n}", "text": f"text {n}", "image": None} for n in range(12)]
    rows += [{"id": name, "text": None, "image": uri} for name, uri in media.items()]
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.string())])
    (folder / "lake").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "lake" / "manifest.parquet")
    return write_config(
        folder,
        manifest={"path": str(folder / "lake" / "manifest.parquet")},
        output={"path": str(folder / "out")},
        model={"path": str(tiny_model())},
        # Short waits: nothing answers at the endpoint.
        fetch={"schemes": ["file", "s3", "leaky"], "storage_options": OPTIONS, "timeout_s": 3, "retries": 0},
        resources={"address": address},
        inputs={"identity": "trust"},
        run={"max_reject_fraction": 0, "block_items": 8, **sections.get("run", {})},
    )


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayHead]:
    """A head of the test's own: its workers have the environment's secrets and the driver that tells them."""
    for name, value in armed(tmp_path).items():
        monkeypatch.setenv(name, value)
    with RayHead() as own:
        yield own


@pytest.mark.ray
def test_a_failing_run_tells_no_secret(tmp_path: Path, head: RayHead) -> None:
    config = planted(tmp_path, head.address)
    # On the command line, where Ray and the process list see it.
    on_line = f"fetch.storage_options.leaky={json.dumps(OPTIONS['leaky'])}"
    done = run_job(config, "--set", on_line, timeout_s=200)
    assert done.returncode == 3, done.stdout
    rejects = {row["id"]: row for row in read_live(str(tmp_path / "out"), "rejects").to_pylist()}
    assert set(rejects) == set(URIS), "each was tried, and none came through"
    assert HIDDEN in rejects["leaky"]["detail"], "the driver did tell its token"
    assert_nothing_leaked(tmp_path, done.stdout, head)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("media", "overrides", "code"),
    [
        (URIS | {"crash": "leaky://lake/crash.jpg"}, [], 3),
        ({}, ["output.path=leaky://lake/out"], 2),
        ({}, ["output.path=s3://lake/out"], 2),
        ({}, ["manifest.path=leaky://lake/manifest.parquet"], 2),
        ({}, ["model.path=leaky://lake/model"], 2),
    ],
    ids=["crashed worker", "output", "output on s3", "manifest", "model"],
)
def test_runs_that_fail_otherwise_tell_no_secret(
    media: dict[str, str], overrides: list[str], code: int, tmp_path: Path, head: RayHead
) -> None:
    config = planted(tmp_path, head.address, media)
    done = run_job(config, *(part for each in overrides for part in ("--set", each)), timeout_s=600)
    assert done.returncode == code, done.stdout
    assert_nothing_leaked(tmp_path, done.stdout, head)


BAD_CONFIGS = {
    "options are no keys": "fetch: {storage_options: {s3: %s}}",
    "a key too deep": "fetch: {storage_options: {s3: {secret: %s}}, timeout_s: soon}",
    "a misspelt section": "fetsh: {storage_options: {s3: {secret: %s}}}",
    "a misspelt key": "fetch: {storage_optoins: {s3: {secret: %s}}}",
    "no YAML": "fetch:\n  storage_options:\n    s3: {secret: %s\n  timeout_s: [",
    "no YAML on that line": "fetch:\n  storage_options:\n    s3: {secret: '%s' 'x'}\n",
    "a presigned manifest": "manifest: {path: 'https://h/m.parquet?X-Amz-Signature=%s'}",
    "userinfo": "manifest: {path: 's3://reader:%s@lake/m.parquet'}",
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
@pytest.mark.parametrize("canary", [SECRET, SIGNATURE], ids=lambda canary: canary.name)
def test_a_bad_config_is_explained_without_its_secrets(
    name: str, canary: Canary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / CONFIG).write_text(BAD_CONFIGS[name] % canary.value)
    for flag in ("--print-config", "--plan"):
        assert run_job_here("embed_corpus", "", ["--config", str(tmp_path / CONFIG), flag]) == 2
    said = capsys.readouterr()
    assert said.err
    assert leaks((said.out + said.err).encode()) == []


@pytest.mark.parametrize(
    "override", ["fetch.storage_options.s3.secret:{}", "fetch.storage_options={{s3: [{}", "fetch.storage_options.s3={}"]
)
def test_a_bad_override_is_explained_without_its_secret(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = planted(tmp_path, "local")
    arguments = ["--config", str(config), "--set", override.format(SECRET.value), "--print-config"]
    assert run_job_here("embed_corpus", "", arguments) == 2
    said = capsys.readouterr()
    assert leaks((said.out + said.err).encode()) == []


@pytest.fixture
def disarmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config full of canaries, in this process: with its environment and its driver, and little patience."""
    config = planted(tmp_path, "local")
    # What an earlier test made known would be hidden here without this command's doing.
    monkeypatch.setattr("pipeline.redaction._known", type(_known)())
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    exec(compile(DRIVER, "sitecustomize.py", "exec"), {})
    monkeypatch.setattr("pipeline.run.REACH_DEADLINE_S", 0.1)
    return config


def rendering(*names: str) -> dict[str, list[str]]:
    """`lakevec render` of items, each of which reads the tokenizer: a second or two."""
    return {f"render {name}": ["render", "{config}", "--id", name] for name in names}


COMMANDS: dict[str, list[str]] = {
    "doctor": ["doctor", "{config}"],
    "doctor, manifest": ["doctor", "{config}", "--set", "manifest.path=leaky://lake/m.parquet"],
    "doctor, output": ["doctor", "{config}", "--set", "output.path=leaky://lake/out"],
    "doctor, userinfo": ["doctor", "{config}", "--set", f"output.path=s3://u:{PASSWORD.value}@lake/out"],
    "files": ["files", "leaky://lake/out", "--config", "{config}"],
    "files, s3": ["files", "s3://lake/out", "--config", "{config}"],
    "files, userinfo": ["files", f"s3://u:{PASSWORD.value}@lake/out", "--config", "{config}"],
    "verify": ["verify", "leaky://lake/out", "--config", "{config}"],
    "snapshots": ["snapshots", "leaky://lake/out", "--config", "{config}"],
    "restore": ["restore", "leaky://lake/out", "1", "--config", "{config}"],
    "gc": ["gc", "leaky://lake/out", "--config", "{config}"],
    "search": ["search", "leaky://lake/out", "--text", "x", "--config", "{config}"],
    # It reads no config: a token of the environment is what it can know.
    "parity": ["parity", f"/nowhere/{HF_TOKEN.value}?sig={SAS.value}"],
    **rendering("presigned", "sas", "leaky"),
    "render, no such item": ["render", "{config}", "--id", URIS["presigned"]],
    "render, manifest": ["render", "{config}", "--id", "t1", "--set", "manifest.path=leaky://lake/m.parquet"],
}


RARER = rendering(*(name for name in URIS if f"render {name}" not in COMMANDS))


@pytest.mark.parametrize("name", [*COMMANDS, *(pytest.param(name, marks=pytest.mark.slow) for name in RARER)])
def test_commands_tell_no_secret(name: str, disarmed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = main([part.replace("{config}", str(disarmed)) for part in (COMMANDS | RARER)[name]])
    said = capfd.readouterr()
    assert status or name == "doctor", "these fail, which is when secrets are told"
    assert said.out + said.err
    assert leaks((said.out + said.err).encode()) == []


@pytest.mark.parametrize("flag", ["--print-config", "--plan"])
def test_previews_tell_no_secret(flag: str, disarmed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_job_here("embed_corpus", "", ["--config", str(disarmed), flag]) == 0
    said = capfd.readouterr()
    assert "127.0.0.1:1" in said.out or "reject" in said.out
    assert leaks((said.out + said.err).encode()) == []


def test_what_nobody_caught_is_redacted(tmp_path: Path) -> None:
    """A defect of ours ends in a traceback; so does a thread's."""
    script = (
        "import threading\nfrom pipeline.speech import guard_process\nfrom pipeline.storage import resolve\n"
        "import pipeline.config\nfrom pipeline.redaction import remember_options\nimport logging\n"
        f"guard_process(); remember_options({OPTIONS!r})\n"
        f"def fail(): raise KeyError({SECRET.value!r})\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        f"logging.getLogger('botocore').warning('signed with %s', {SESSION.value!r})\n"
        f"raise RuntimeError('no luck with ' + {HF_TOKEN.value!r})\n"
    )
    # From standard input, so that no traceback has a source line to quote.
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=ROOT, env=os.environ | armed(tmp_path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.count(HIDDEN) == 3, done.stdout
    assert leaks(done.stdout.encode()) == []
