"""Measures are those of ir-measures, over every judged query."""

from __future__ import annotations

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.evaluation.evaluation import evaluate, measures_document, per_query_table
from pipeline.evaluation.measures import measure_run, parse_measures, require_library
from pipeline.evaluation.rankings import Ranking

NAMES = ("nDCG@10", "nDCG", "R@3", "RR@2", "RR", "AP", "P(rel=2)@2", "Success@1", "NumRet", "Judged@3")
QUERIES, DOCS = [f"q{i}" for i in range(5)], [f"d{i}" for i in range(6)]

JUDGED = st.dictionaries(
    st.sampled_from(QUERIES[:4]), st.dictionaries(st.sampled_from(DOCS), st.integers(0, 3), min_size=1), min_size=1
)
RUNS = st.dictionaries(st.sampled_from(QUERIES[1:]), st.permutations(DOCS).map(lambda docs: docs[:4]))


def ranking(run: dict[str, list[str]]) -> Ranking:
    queries = sorted(run)
    starts = np.cumsum([0, *(len(run[query]) for query in queries)])
    return Ranking(
        tuple(queries), starts, pa.chunked_array([[doc for query in queries for doc in run[query]]], pa.string())
    )


@settings(deadline=None)
@given(JUDGED, RUNS)
def test_every_value_is_that_of_ir_measures_called_directly(
    judged: dict[str, dict[str, int]], run: dict[str, list[str]]
) -> None:
    measures = parse_measures(NAMES)
    found = measure_run(ranking(run), judged, measures)
    qrels = [ir_measures.Qrel(query, doc, grade) for query, docs in judged.items() for doc, grade in docs.items()]
    scored = [
        ir_measures.ScoredDoc(q, doc, -1.5 * i) for q, docs in run.items() if q in judged for i, doc in enumerate(docs)
    ]
    aggregated, per_query = ir_measures.calc(measures, qrels, scored)
    queries = sorted(judged)
    for metric in per_query:
        assert found.values[measures.index(metric.measure), queries.index(metric.query_id)] == metric.value
    assert len(per_query) == found.values.size
    np.testing.assert_allclose(found.aggregates, [aggregated[measure] for measure in measures])
    assert found.without_results == len(judged.keys() - run.keys())
    assert found.unjudged == len(run.keys() - judged.keys())


def test_a_perfect_run_has_one_everywhere() -> None:
    judged = {query: {"d0": 2, "d1": 1, "d2": 0} for query in QUERIES}
    run = {query: ["d0", "d1", "d5", "d2"] for query in QUERIES}
    assert measure_run(ranking(run), judged, parse_measures(NAMES[:6])).aggregates.tolist() == [1.0] * 6


def test_a_query_without_results_counts_as_nothing_found_and_an_unjudged_one_not_at_all() -> None:
    judged = {"q0": {"d0": 1}, "q1": {"d0": 1}}
    found = measure_run(ranking({"q0": ["d0"], "q4": ["d0"]}), judged, parse_measures(["AP", "RR@10"]))
    assert found.values.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert (found.aggregates.tolist(), found.without_results, found.unjudged) == ([0.5, 0.5], 1, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ndcg@10", ["did you mean nDCG"]),
        ("Recal@10", ["did you mean R?"]),
        ("R", ["cutoff"]),
        ("nDCG@ten", ["cutoff"]),
        ("nDCG@-1", ["1 or more"]),
        ("nDCG@1.5", ["cutoff"]),
        ("AP(level=2)", ["parameters of AP"]),
        ("", ["examples: nDCG@10"]),
        ("__import__('os')", ["examples: nDCG@10"]),
        ("MAP", ["MAP", "AP", "more than once"]),
        ("RBP", ["cannot be computed here", "provider"]),
    ],
)
def test_measures_that_are_none_are_refused_with_what_to_write(name: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_measures(["AP", name])
    assert all(word in str(caught.value) for word in ["measures:", *words]), str(caught.value)


def test_other_names_of_measures_are_understood() -> None:
    assert [str(measure) for measure in parse_measures(["MRR@10", "MAP", "Recall@5"])] == ["RR@10", "AP", "R@5"]


def test_a_library_that_is_not_there_is_named_with_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"needs no-such-thing.*pip install 'lakevec\[report\]'"):
        require_library("no_such_thing", "this")


def test_an_evaluation_compares_every_other_run_with_the_baseline() -> None:
    judged = {query: {"d0": 1} for query in QUERIES}
    good, bad = (dict.fromkeys(QUERIES, docs) for docs in (["d0", "d1"], ["d1", "d0"]))
    runs = {"good": ranking(good), "bad": ranking(bad), "same": ranking(bad)}
    evaluation = evaluate(runs, judged, parse_measures(["RR", "R@2"]), "bad")
    assert [(each.run, each.measure) for each in evaluation.comparisons] == [
        ("good", "RR"), ("good", "R@2"), ("same", "RR"), ("same", "R@2"),
    ]  # fmt: skip
    first, second = evaluation.comparisons[0], evaluation.comparisons[2]
    assert (first.difference.mean, first.difference.better, first.difference.worse) == (0.5, 5, 0)
    # Five queries, all better: 2 of the 32 draws of signs are as far from zero; four comparisons.
    assert (first.difference.randomisation_p, first.randomisation_p_holm) == (2 / 32, 4 * 2 / 32)
    assert (second.difference.mean, second.difference.t_test_p, second.randomisation_p_holm) == (0.0, 1.0, 1.0)
    table = per_query_table(evaluation)
    assert table.num_rows == 3 * 2 * 5
    assert {"query_id": "q0", "run": "good", "measure": "RR", "value": 1.0} in table.to_pylist()
    assert {"query_id": "q4", "run": "same", "measure": "RR", "value": 0.5} in table.to_pylist()
    assert measures_document(evaluation)["runs"]["bad"]["measures"] == {"RR": 0.5, "R@2": 1.0}
