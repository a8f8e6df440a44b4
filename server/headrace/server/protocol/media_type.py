"""A Content-Type header read: `Application/JSON; charset="utf-8"` → application/json, utf-8."""

from email.message import Message

from headrace.server.errors import UnsupportedMedia

_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})


def media_type(content_type: str | None) -> str:
    """The type in lower case without its parameters; "" for an absent or empty header."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(content_type: str | None) -> bool:
    """True for a JSON type and for none at all (contract §1.3)."""
    kind = media_type(content_type)
    return not kind or kind == "application/json" or kind.endswith("+json")


def check_charset(content_type: str | None) -> None:
    """Raises UnsupportedMedia for a charset that is not UTF-8; JSON is always UTF-8."""
    if content_type is None or ";" not in content_type:
        return
    header = Message()
    header["content-type"] = content_type
    charset = str(header.get_param("charset", "")).strip().lower()
    if charset not in _UTF8:
        raise UnsupportedMedia(f"Content-Type: charset {charset!r} of a JSON body; send UTF-8")
