"""Pickles written opcode by opcode, as no pickler would."""

import struct


def code(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def text(value: str) -> bytes:
    """A short unicode string, opcode X."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def made(module: str, name: str) -> bytes:
    """An instance by NEWOBJ, without arguments."""
    return stack_global(module, name) + b")\x81"


def called(module: str, name: str, *arguments: bytes) -> bytes:
    return stack_global(module, name) + b"(" + b"".join(arguments) + b"tR"


def built(target: bytes, **attributes: bytes) -> bytes:
    """target with BUILD's state."""
    pairs = b"".join(text(name) + value for name, value in attributes.items())
    return target + b"}(" + pairs + b"ub"
