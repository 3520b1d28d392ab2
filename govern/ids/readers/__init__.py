"""Readers: one file in, `Record`s and `Broken`s out, in file order.

    record    what every reader yields
    streams   opening, decompressing, splitting into lines; local paths and fsspec URLs
    formats   JSONL, CSV, text, Parquet, Arrow

A reader never drops a record: what cannot become a document is `Broken`, with a reason and up to
200 bytes of context.
"""
