"""Evaluation of a run: what it remembers of chosen documents, and what forgetting them would cost.

probing      manifest and corpus -> the documents to measure, as tokens
oracle       a reference is trained: the run's recipe without the chosen documents
neighbours   the kept sequence that resembles a forgotten one most
evaluating   documents and controls -> tables of metrics, per group and per document
question_file, asking  questions from people, put to the run before and after, and their figures
attacking    every attack on the erased run and on a reference, resumable, and what came of it
tables       what was measured as tables
charts       geometry of the extraction curves; relearning_chart of those after training again
figures      what the page shows of the tables
page, card   tables -> HTML page, Markdown summary, model card
writing      all of it as files
"""
