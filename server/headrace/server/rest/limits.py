"""What the settings say of a body, in the codecs' terms."""

from headrace.server.protocol.limits import ParseLimits
from headrace.server.settings import Settings


def parse_limits(settings: Settings) -> ParseLimits:
    return ParseLimits(settings.max_json_depth, settings.max_body_bytes, settings.lenient_shapes)
