"""Recall: memories by meaning and by metadata, from an index that is a projection of the stream.

`service` answers for every board of a broker; `library` keeps a board's indexes and `indexer` takes
the stream into one; `text` and `rank` are the recipe, `embed` the vectors; `edge` and `qdrant` are
the engines behind `index`. Loading this package loads none of them.
"""
