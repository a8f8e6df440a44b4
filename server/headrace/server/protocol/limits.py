"""How much a decoder accepts before it refuses. 0 means: no limit (contract §8)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ParseLimits:
    max_json_depth: int = 64  # arrays and objects inside each other, flag --max_json_depth
    max_body_bytes: int = 1 << 30  # also after decompression, flag --max_body_bytes
    lenient_shapes: bool = False  # accept ragged JSON data whose total count fits


DEFAULT_LIMITS = ParseLimits()
