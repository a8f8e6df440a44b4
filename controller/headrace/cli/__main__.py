"""The `headrace` command."""


def main() -> int:
    raise NotImplementedError
