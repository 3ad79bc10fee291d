"""Backups: a whole board, with its sequences, times, consumers and buckets, and back again.

An archive (`export`) is what memories say, for any tool and any board; a backup is the board
itself, for a broker that lost it. Backups of one board lie in one directory and share what did not
change; what is forgotten on the board is forgotten in them. Keys are not in it: what the ledger
proves it proves with the public key, and whoever shall go on signing needs the board's key file
from where secrets are kept.
"""

from blackboard.backup.restoring import Restored, restore, words_of
from blackboard.backup.taking import Taken, hear, take
from blackboard.backup.vault import Vault
from blackboard.backup.words import Words, words_at

__all__ = ["Restored", "Taken", "Vault", "Words", "hear", "restore", "take", "words_at", "words_of"]
