"""Runs agents: pulls their inputs, keeps their transactions, and tells who is there."""
