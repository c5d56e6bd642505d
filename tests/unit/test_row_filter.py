"""Filters: conditions that are checked before anything is read, and what they let pass."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.retrieval.row_filter import settle_filter

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.int8(), 4)),
        pa.field("modality", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("year", pa.int64()),
        pa.field("half", pa.float16()),
        pa.field("tags", pa.list_(pa.string())),
    ]
)


def test_a_condition_holds_where_sql_says_it_does() -> None:
    row_filter = settle_filter("lang = 'de' AND Year >= 2020", SCHEMA, ["vector"])
    assert row_filter.columns == ("lang", "year")
    rows = pa.table({"lang": ["de", "de", None, "en", "de"], "year": [2019, 2020, 2021, 2022, None]})
    assert row_filter.rows(rows).tolist() == [1]


def test_only_what_a_condition_names_is_read() -> None:
    assert settle_filter("list_contains(tags, 'a')", SCHEMA, ["vector"]).columns == ("tags",)
    assert settle_filter("\"modality\" IN ('text', 'image')", SCHEMA, ["vector"]).columns == ("modality",)
    assert settle_filter("true", SCHEMA, ["vector"]).columns == ()


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("lng = 'de'", '"lng" not found.*columns there: id, modality, lang, year'),
        ("vector IS NULL", '"vector" not found'),
        ("lang", "gives VARCHAR; give one condition"),
        ("lang = ", "syntax error"),
        ("year = 1, lang = 'x'", "single expression"),
        ("count(*) > 1", "aggregates"),
        ("EXISTS (FROM read_text('/etc/hostname'))", "disabled by configuration"),
        ("1 = 1) OR (1 = 1", "syntax error"),
    ],
)
def test_what_is_no_condition_on_the_columns_is_refused(condition: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settle_filter(condition, SCHEMA, ["vector"])


def test_a_value_that_a_condition_cannot_take_is_named() -> None:
    row_filter = settle_filter("CAST(lang AS INTEGER) > 1", SCHEMA, ["vector"])
    with pytest.raises(ConfigError, match="'de'"):
        row_filter.rows(pa.table({"lang": ["de"]}))
