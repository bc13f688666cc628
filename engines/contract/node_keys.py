"""The file of keys that all nodes of a service have: who has none gets no word out of any of them.

Two CURVE key pairs, the gateway's and the other nodes', each in ZeroMQ's Z85 notation.
"""

import os
import stat
from pathlib import Path

import msgspec

FOR_OTHERS = stat.S_IRWXO | stat.S_IRWXG
KEY_LENGTH = 40  # characters of Z85


class NodeKeysError(ValueError):
    """The file cannot be used. The message is a sentence with the remedy."""


class NodeKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file holds, as JSON."""

    gateway_public: str
    gateway_secret: str
    node_public: str
    node_secret: str


def read_node_keys(path: Path) -> NodeKeys:
    """Raises NodeKeysError."""
    try:
        mode, text = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        raise NodeKeysError(f"{path} is not there: make it with `phalanx node-keys create {path}`") from None
    except OSError as error:
        raise NodeKeysError(f"{path} cannot be read ({error.strerror}): become the user that it belongs to") from None
    if mode & FOR_OTHERS:
        raise NodeKeysError(
            f"{path} has mode {stat.S_IMODE(mode):04o}, so that other users may read it: `chmod 600 {path}`, and make "
            "new keys if somebody may have"
        )
    try:
        keys = msgspec.json.decode(text, type=NodeKeys)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NodeKeysError(f"{path} holds no keys ({error}): make it with `phalanx node-keys create`") from None
    if any(len(key) != KEY_LENGTH for key in msgspec.structs.astuple(keys)):
        raise NodeKeysError(f"{path} holds a key of a wrong length: make it anew with `phalanx node-keys create`")
    return keys


def write_node_keys(keys: NodeKeys, path: Path) -> None:
    """Makes the file, for this user alone. Raises NodeKeysError, also when there is one: others may have its copies."""
    text = msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123  a descriptor
            file.write(text)
    except FileExistsError:
        raise NodeKeysError(f"{path} is there already, and other nodes may have it: choose another name") from None
    except OSError as error:
        raise NodeKeysError(f"{path} cannot be made ({error.strerror}): name a file in a folder of yours") from None
