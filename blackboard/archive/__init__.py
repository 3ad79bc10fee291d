"""Archives: a board, or a part of it, as files that any tool can read; written and read back.

    manifest.json           what it is of, how far it reaches, and a checksum of each file
    memories-000000.ndjson  one revision or tombstone a line, in the order of the board
    blobs/<sha256>          large content, by the digest of its bytes

A file is complete when the manifest names it. The manifest is replaced whole, so an export that was
interrupted goes on behind the last file that it names, and an archive never looks more than it is.
"""

from blackboard.archive.export import Exported, export
from blackboard.archive.load import Loaded, load

__all__ = ["Exported", "Loaded", "export", "load"]
