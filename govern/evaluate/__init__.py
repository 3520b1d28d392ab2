"""Evaluation of a run: what it remembers of chosen documents, and what forgetting them would cost.

probing      manifest and corpus -> the documents to measure, as tokens
neighbours   the kept sequence that resembles a forgotten one most
"""
