"""Candidate lists: which documents the first stage gives for which query, read from any of the usual formats.

In: Parquet pairs or lists, TREC runs, BEIR folders, RankLLM JSONL, MMEB predictions; local or any fsspec URI. Out:
batches of pairs with one first-stage rank each, and where a format brings texts along, manifests of them. Refused with
ManifestError: what is none of these, pairs listed twice, lists without a single pair.
"""
