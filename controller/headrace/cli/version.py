"""`headrace version`."""

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    argparse.ArgumentParser(
        prog="headrace version",
        description="Print the version of Headrace.",
        epilog="example: headrace version",
    ).parse_args(argv)
    print(f"headrace {version('headrace')}")
    return 0
