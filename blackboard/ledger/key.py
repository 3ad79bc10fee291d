"""The board's key: an Ed25519 pair that vouches for the ledger.

It is an nkey of the account kind, so the tools of NATS can read it and verify with it too. It is
made at the first start, in a file that only the owner may read; whoever has it can forge the
ledger, so it belongs to the steward alone and is no credential of the broker.
"""

import base64
import binascii
import secrets
from pathlib import Path

import nacl.exceptions
import nacl.signing
import nkeys  # pyright: ignore[reportMissingTypeStubs]

from blackboard.errors import SettingsError
from blackboard.files import create_private

BEGIN = "-----BEGIN BOARD KEY-----"
END = "------END BOARD KEY------"


class BoardKey:
    """The pair; see `load_key`.

    Attributes:
        public: The public key as text, `A…`.
    """

    def __init__(self, seed: bytes) -> None:
        self._pair = nkeys.from_seed(bytearray(seed))  # pyright: ignore[reportUnknownMemberType]
        self.public: str = bytes(self._pair.public_key).decode()

    def sign(self, statement: bytes) -> str:
        """Sign a statement; base64."""
        signature = self._pair.sign(statement)  # pyright: ignore[reportUnknownMemberType]
        return base64.b64encode(signature).decode()


def load_key(path: Path) -> BoardKey:
    """Read the board's key, or make one when the file is missing (mode 0600).

    Two that start at once agree on one key: the file appears whole, and only once.

    Raises:
        SettingsError: The file cannot be read or written, is no key, or others may read it.
    """
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            raise SettingsError(
                f"others may read the board's key {str(path)!r}; run: chmod 600 {str(path)!r}"
            )
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot use the board's key {str(path)!r}: {error}; set BLACKBOARD_BOARD_KEY to a "
            "file that the steward may read, or where it may make one"
        ) from error
    lines = [line for line in text.split() if line.startswith("SA")]
    try:
        return BoardKey(lines[0].encode())
    except (IndexError, ValueError, nkeys.NkeysError) as error:
        raise SettingsError(
            f"{str(path)!r} holds no board key; restore it from a backup: a ledger goes on only "
            "under the key that it began with"
        ) from error


def _make(path: Path) -> None:
    raw = secrets.token_bytes(32)
    seed = nkeys.encode_seed(raw, nkeys.PREFIX_BYTE_ACCOUNT)  # pyright: ignore[reportUnknownMemberType]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_private(path, f"{BEGIN}\n{seed.decode()}\n{END}\n".encode())


def is_signed(public: str, statement: bytes, signature: str) -> bool:
    """Whether a public key (`A…`) signed a statement."""
    try:
        raw = base64.b32decode(public + "=" * (-len(public) % 8))
        verify = nacl.signing.VerifyKey(raw[1:33])
        verify.verify(statement, base64.b64decode(signature, validate=True))
    except (nacl.exceptions.CryptoError, binascii.Error, ValueError, TypeError):
        return False
    return True
