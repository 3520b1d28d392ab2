"""What a run remembers of documents: probes, token scores, metrics, controls.

metrics      definitions as pure functions of numbers, each with its source
membership   membership inference scores and their AUC
scores       a model and documents -> loss and argmax of every token, batched
generation   greedy continuations from a prefix
measure      the default measurement of a forget report, with its controls
"""
