"""Reranking: candidate lists scored by the reranker, planned, resumed and ranked as an embed run is."""
