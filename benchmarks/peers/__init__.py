"""One adapter a tool: how its users run it, in its fastest setting with the same shingles.

    PACKAGES                          whose versions are printed
    prepare(texts)                    optional, off the clock: the form that its readers hand out
    signatures(texts)                 five-word shingles and 128 permutations of every text
    cluster(shards, out, workers)     JSONL files to clusters on disk
    export(shards, out)               optional, off the clock: writes `out/clusters.tsv` where
                                      `cluster` has not: a line `document ID <tab> cluster` each

Modules import nothing of the project but `peers`, so that each runs in an environment of its own.
"""
