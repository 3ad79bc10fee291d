"""Consolidation: many words into few, by a model or, offline, by picking sentences."""
