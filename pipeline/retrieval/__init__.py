"""Exact retrieval: the documents of an index that are nearest to query vectors, for every stored dtype. No Ray."""
