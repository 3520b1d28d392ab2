"""Raw corpus to sequence IDs: near-duplicates share one, and every link is kept as evidence.

    inputs        what the user named -> files with their readers
    readers/      files -> records, good and broken
    corpus        records -> Arrow batches of documents and rejects
    codepoints    Unicode tables; reference: the text rule in plain Python
    kernel        the same rule compiled; shingle: a batch of texts -> hashes and signatures
    minhash       permutations and banding, bit-identical to datasketch `affine32`
    ingest        one pass over the corpus -> parts
    parts         working files of reading, each published once; store: looked up as one
    settle        duplicate IDs, exact duplicates -> distinct texts
    lsh           signatures -> candidate pairs
    sets          shingle hashes -> sorted shingle sets
    verify        candidate pairs -> links, by exact Jaccard
    cluster       links -> clusters, every member linked to its representative
    assign        clusters -> sequence IDs
    forgotten     text that was forgotten in another manifest
    tables        documents, links -> the manifest's tables; sequences: their rows
    first_tables  all tables of a first snapshot
    tasks         the same stages as tasks from files to files; exchange: the files between them
    staged        these tasks on an engine, counted between any two stages
    progress      who wants to know how far it is; refusals: what builds and additions refuse alike
    output        the manifest's directory while it is built; what an unfinished build keeps
    pipeline      the stages in order: `build_ids`
    stored        a manifest as arrays
    probe         new signatures against stored ones -> candidate pairs of an addition
    union         old and new texts as one numbered set; relink: the links of both
    carry         old sequence IDs -> new clusters; standing: policies, status, tombstones
    amend         an addition -> the files that it changes
    add           the stages in order: `add_documents`
    rules         whether stored signatures can be compared with new ones
    texts         a manifest's documents with their text, read again and verified

From `settle` on, everything is a pure function of the set of records: file order, thread count and
batch size leave no trace.
"""
