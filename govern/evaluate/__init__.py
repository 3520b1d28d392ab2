"""Evaluation of a run: what it remembers of chosen documents, and what forgetting them would cost.

probing      manifest and corpus -> the documents to measure, as tokens
neighbours   the kept sequence that resembles a forgotten one most
evaluating   documents and controls -> tables of metrics, per group and per document
attacking    every attack on the erased run and on a reference, resumable, and what came of it
charts       geometry of the extraction curves; relearning_chart of those after training again
figures      the tables of the page
page, card   tables -> HTML page, Markdown summary, model card
writing      all of it as files
"""
