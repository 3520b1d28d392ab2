"""What a run remembers of documents: probes, token scores, metrics, controls.

metrics      definitions as pure functions of numbers, each with its source
membership   membership inference scores and their AUC
probes       the documents that are measured, as tokens
scores       a model and documents -> loss and argmax of every token, batched
generation   greedy continuations from a prefix
scorer       both for a probe set, kept by (checkpoint digest, probe digest)
controls     a model changed in memory, and as it was again
measure      the default measurement: before, after, and the controls
comparisons  phases set against one another: what thresholds are about
rows         all of it as rows; what could not be measured among them
archive      scores as bytes
attacks      weights quantised or pruned, gradients, sampling, relearning
suite        those, prompts and sequential requests, with budgets, as tasks
questions    questions with answers: recall, truth ratio, TOFU's utility
compression  the shortest prompt that makes a model say a text
baselines    objectives of post-hoc unlearning, to compare with
unlearning_scores  truth ratio, forget quality, PrivLeak
"""
