"""Evaluation of a run: what it remembers of chosen documents, and what forgetting them would cost.

probing      manifest and corpus -> the documents to measure, as tokens
neighbours   the kept sequence that resembles a forgotten one most
evaluating   documents and controls -> tables of metrics, per group and per document
charts       geometry of the extraction curves
page, card   tables -> HTML page, Markdown summary, model card
writing      all of it as files
"""
