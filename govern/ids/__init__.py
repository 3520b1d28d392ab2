"""Raw corpus to sequence IDs: near-duplicates share one, and every link is kept as evidence.

    readers/      files -> records, good and broken
    corpus        records -> Arrow batches of documents and rejects
    codepoints    Unicode tables; reference: the text rule in plain Python
    kernel        the same rule compiled; shingle: a batch of texts -> hashes and signatures
    minhash       permutations and banding, bit-identical to datasketch `affine32`
    ingest        one pass over the corpus -> working files (store)
    settle        duplicate IDs, exact duplicates -> distinct texts
    lsh           signatures -> candidate pairs
    verify        candidate pairs -> links, by exact Jaccard
    cluster       links -> clusters, every member linked to its representative
    assign        clusters -> sequence IDs
    tables        all of it -> the manifest's tables
    pipeline      the stages in order: `build_ids`
    texts         a manifest's documents with their text, read again and verified

From `settle` on, everything is a pure function of the set of records: file order, thread count and
batch size leave no trace.
"""
