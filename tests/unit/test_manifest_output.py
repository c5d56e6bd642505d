"""An output that lies beside its manifest is not read as manifest, however it is spelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import ManifestConfig
from pipeline.errors import ManifestError
from pipeline.manifest.listing import list_manifest
from pipeline.storage import open_store
from tests.fixtures.manifests import write_parquet
from tests.fixtures.s3_server import S3Server


def names(path: Path | str, output: Path | str) -> list[str]:
    return [Path(file.uri).name for file in list_manifest(ManifestConfig(path=str(path)), {}, str(output)).files]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A folder with a manifest, an index below it, one whose name begins like the index's, and a link to itself."""
    for name in ("lake/m.parquet", "lake/index/vectors/run=1/v.parquet", "lake/index2/n.parquet"):
        write_parquet(tmp_path / name, {"id": [name], "text": ["t"]})
    (tmp_path / "link").symlink_to(tmp_path / "lake")
    return tmp_path / "lake"


SPELLINGS: list[Callable[[Path], str]] = [
    lambda lake: f"{lake}/index",
    lambda lake: f"{lake}/index/",
    lambda lake: f"{lake}//index",
    lambda lake: f"{lake}/index/../index",
    lambda lake: f"file://{lake}/index",
    lambda lake: f"{lake.parent}/link/index",
    lambda lake: "index",
    lambda lake: "./index/",
    lambda lake: f"../{lake.name}/index",
]


@pytest.mark.parametrize("spell", SPELLINGS, ids=[str(i) for i in range(len(SPELLINGS))])
@pytest.mark.parametrize(
    "manifest", ["{lake}", "{lake}/", "{lake.parent}/link", "{lake}/*", "{lake}/**/*.parquet", "."]
)
def test_the_output_below_a_manifest_is_left_out(
    lake: Path, monkeypatch: pytest.MonkeyPatch, spell: Callable[[Path], str], manifest: str
) -> None:
    monkeypatch.chdir(lake)
    assert sorted(names(manifest.format(lake=lake), spell(lake))) == ["m.parquet", "n.parquet"]


def test_an_output_reached_by_a_link_in_the_manifest_is_left_out(lake: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "out" / "vectors" / "w.parquet", {"id": ["1"], "text": ["t"]})
    (lake / "here").symlink_to(tmp_path / "out")
    assert sorted(names(lake, tmp_path / "out")) == ["m.parquet", "n.parquet", "v.parquet"]


@pytest.mark.parametrize("manifest", ["{lake}/index/vectors", "{lake.parent}/link/index/vectors/run=1"])
def test_a_folder_of_the_output_is_refused(lake: Path, manifest: str) -> None:
    path = manifest.format(lake=lake)
    with pytest.raises(ManifestError) as error:
        names(path, lake / "index")
    for said in (path, f"the output {lake / 'index'}", "output.path"):
        assert said in str(error.value)


def test_a_manifest_may_lie_beside_what_is_written(lake: Path) -> None:
    write_parquet(lake / "index" / "nightly.parquet", {"id": ["1"], "text": ["t"]})
    assert names(lake / "index", lake / "index") == ["nightly.parquet"]
    assert names(lake / "index" / "*", lake / "index") == ["nightly.parquet"]


def test_a_glob_that_matches_only_the_output_has_no_files(lake: Path) -> None:
    with pytest.raises(ManifestError, match=r"no files.*what lakevec wrote to output\.path"):
        names(lake / "index" / "vectors" / "*", lake / "index")


def test_a_file_that_the_user_names_is_read_where_it_lies(lake: Path) -> None:
    assert names(lake / "m.parquet", lake) == ["m.parquet"]


def test_another_store_is_no_output(lake: Path) -> None:
    assert len(names(lake, f"memory://{lake}")) == 3


@pytest.mark.s3
def test_the_same_on_s3(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket("beside")
    options = s3_server.storage_options
    store = open_store(bucket, options)
    for name in ("lake/m.parquet", "lake/index/vectors/run=1/v.parquet", "lake/index2/n.parquet"):
        store.put(name, b"x")

    def found(path: str, output: str) -> list[str]:
        listing = list_manifest(ManifestConfig(path=f"{bucket}/{path}"), options, f"{bucket}/{output}")
        return [file.uri.rpartition("/")[2] for file in listing.files]

    for output in ("lake/index", "lake/index/", "lake/x/../index"):
        for path in ("lake", "lake/", "lake/**/*.parquet"):
            assert sorted(found(path, output)) == ["m.parquet", "n.parquet"]
    with pytest.raises(ManifestError, match=r"is part of the output s3://"):
        found("lake/index/vectors", "lake/index")
    store.put("vectors/lake/m.parquet", b"x")
    assert found("vectors/lake", "lake") == ["m.parquet"]


def test_an_index_kept_beside_the_output_is_left_out_too(lake: Path) -> None:
    for name in ("index-0123456789ab/vectors/run=1/v.parquet", "index-0123456789ab/k.parquet", "index-2/l.parquet"):
        write_parquet(lake / name, {"id": [name], "text": ["t"]})
    assert names(lake, lake / "index") == ["k.parquet", "l.parquet", "n.parquet", "m.parquet"]
