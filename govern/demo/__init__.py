"""The guided run: the whole job, end to end, on text that every Python installation has.

embedded   the corpus: licence files, descriptions, documentation topics, docstrings
choose     which texts to forget: a licence with many copies, and one strict document
story      what the terminal shows
places     where everything lies
training   the run, and the one that never sees what will be forgotten
run        the steps, in order
"""
