"""The manifest: the list of the lake's items, read from Parquet, CSV or JSON Lines.

In: a file, folder or glob, local or any fsspec URI. Out: batches of items with their media referenced, not
fetched. Refused with ManifestError: anything that is not a clean list of items.
"""
