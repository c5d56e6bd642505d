"""The doctor: everything healthy is called so, each thing broken is a finding with advice, nothing is left behind."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import doctor
from pipeline.config import Config
from pipeline.doctor import Finding, diagnose
from pipeline.models.devices import Gpu
from pipeline.storage import Store, open_store
from tests.fixtures.manifests import write_parquet
from tests.fixtures.s3_server import S3Server
from tests.fixtures.tiny_model import tiny_model

GIB = 1 << 30


def config_of(folder: Path, **sections: Any) -> Config:
    manifest = write_parquet(folder / "manifest" / "items.parquet", {"id": ["a", "b"], "text": ["x", "y"]})
    tree = {
        "manifest": {"path": str(manifest)},
        "output": {"path": str(folder / "out")},
        "model": {"path": str(tiny_model())},
    }
    return Config.model_validate(tree | sections)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    named = {finding.name: finding for finding in findings}
    assert len(named) == len(findings)
    return named


def test_a_healthy_machine_and_config_have_no_bad_finding(tmp_path: Path) -> None:
    findings = by_name(diagnose(config_of(tmp_path)))
    assert [finding for finding in findings.values() if finding.ok is False] == []
    for name in ("python", "torch", "transformers", "ray", "model classes", "model", "tokenizer", "manifest", "output"):
        assert findings[name].ok is True, name
    assert "64 dimensions" in findings["model"].detail
    assert "0.04 GiB" in findings["gpu memory"].detail or "0.02 GiB" in findings["gpu memory"].detail


def test_how_decoding_is_kept_off_the_network_is_said() -> None:
    (finding,) = doctor._decoding()
    assert (finding.name, finding.ok) in {("decoding", True), ("decoding", None)}
    assert ("without a network" in finding.detail) == (finding.ok is True)
    assert "audit hook" in finding.detail or finding.ok


def test_without_a_config_only_the_machine_is_looked_at() -> None:
    names = set(by_name(diagnose(None)))
    assert {"python", "torch", "gpu", "heic images"} <= names | {name.split()[0] for name in names}
    assert not names & {"model", "manifest", "output"}


def test_nothing_is_left_in_the_output(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    diagnose(config)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("x")
    diagnose(config)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]
    diagnose(config_of(tmp_path, output={"path": str(tmp_path / "new" / "folder" / "out")}))
    assert not (tmp_path / "new").exists()


def test_a_library_that_is_too_old_or_absent_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=99", "no-such-lib>=1", "pytest>=8; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    findings = by_name(diagnose(None))
    assert findings["numpy"].ok is False
    assert findings["numpy"].advice == "pip install 'numpy>=99'"
    assert (findings["no-such-lib"].ok, findings["no-such-lib"].detail) == (False, "not installed")
    assert "pytest" not in findings


@pytest.mark.parametrize(
    ("sections", "name", "said"),
    [
        ({"model": {"path": "/no/such/model"}}, "model", "no such folder"),
        ({"output": {"path": "o", "vectors": [{"dim": 65}]}}, "model", "dim 65, but the model's vectors have 64"),
        ({"manifest": {"path": "/no/such/manifest.parquet"}}, "manifest", "manifest"),
    ],
)
def test_what_is_wrong_in_a_config_is_a_finding(
    tmp_path: Path, sections: dict[str, Any], name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finding = by_name(diagnose(config_of(tmp_path, **sections)))[name]
    assert finding.ok is False
    assert said in finding.detail


def test_a_tokenizer_without_the_final_token_is_a_finding_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(), tmp_path / "m")
    (folder / "tokenizer.json").write_text("{}")
    findings = by_name(diagnose(config_of(tmp_path, model={"path": str(folder)})))
    assert findings["tokenizer"].ok is False
    assert "is no tokenizer" in findings["tokenizer"].detail
    assert findings["output"].ok is True


def test_an_output_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = by_name(diagnose(config_of(tmp_path, output={"path": str(tmp_path / "file")})))["output"]
    assert finding.ok is False


class Overwriting(Store):
    """A store whose put-if-absent overwrites, as some S3 servers do."""

    def put_if_absent(self, rel: str, data: bytes) -> bool:
        self.put(rel, data)
        return True


def test_a_store_that_overwrites_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwriting(path: str, storage_options: Any) -> Store:
        real = open_store(path, storage_options)
        return Overwriting(root=real.root, base=real.base, fs=real.fs)

    monkeypatch.setattr(doctor, "open_store", overwriting)
    finding = by_name(diagnose(config_of(tmp_path)))["output"]
    assert finding.ok is False
    assert "put-if-absent overwrites" in finding.detail
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("free_bytes", "bfloat16", "bad"),
    [(70 * GIB, True, set()), (1 * GIB, True, {"gpu memory"}), (70 * GIB, False, {"gpu 0"})],
)
def test_gpus_are_held_against_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, bfloat16: bool, bad: set[str]
) -> None:
    gpu = Gpu("Example GPU", 80 * GIB, free_bytes, bfloat16)
    monkeypatch.setattr("pipeline.models.devices.gpus", lambda: [gpu])
    findings = diagnose(config_of(tmp_path))
    assert {finding.name for finding in findings if finding.ok is False} == bad
    assert "Example GPU" in by_name(findings)["gpu 0"].detail


def test_s3_without_credentials_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    config = config_of(tmp_path, output={"path": "s3://bucket/out"})
    finding = doctor._guarded("s3 credentials", lambda: doctor._credentials(config))[0]
    assert finding.ok is False
    assert "aws configure" in finding.detail
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-that-must-not-show")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-that-must-not-show")
    finding = doctor._credentials(config)[0]
    assert finding.ok is True
    assert "must-not-show" not in finding.detail


@pytest.mark.s3
def test_a_real_s3_output_is_reachable_and_left_clean(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    output = {"path": f"{s3_bucket}/doctor"}
    config = config_of(tmp_path, output=output, fetch={"storage_options": s3_server.storage_options})
    findings = by_name(diagnose(config))
    assert findings["output"].ok is True, findings["output"]
    assert findings["s3 credentials"].ok is True
    assert open_store(output["path"], s3_server.storage_options).list("") == []
