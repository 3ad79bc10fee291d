"""Recall: texts as vectors, and (with a Qdrant index) memories by meaning."""
