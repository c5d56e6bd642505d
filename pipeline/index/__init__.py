"""The index: plain Parquet files, and a log of commits that says which of them are live."""
