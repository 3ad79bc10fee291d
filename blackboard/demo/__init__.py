"""The demo: a flock of agents reads real documents, with and without a shared board.

One noun a module: `documents` and `teams` are what is read and asked, `programs` and `flock` what
runs, `calls` and `traffic` what is counted, `matrix` and `screen` what is seen, `edits` and `acts`
what happens, `report` what it came to, `play` all of it (its function `demo` is the command).
"""
