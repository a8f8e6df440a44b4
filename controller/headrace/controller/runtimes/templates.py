"""`{{.Name}}` in a runtime's container: plain text, over the service's metadata.

    {{.Name}} {{.Namespace}} {{.Labels.team}} {{.Annotations.tier}} {{index .Annotations "a/b"}}

A missing key is empty, as in KServe; `index` reaches the keys that a dot cannot (kserve#3851).
"""

import re
from typing import Any

from headrace.controller.api.inference_service import ObjectMeta
from headrace.controller.errors import Failure, InvalidPredictor

TEMPLATE = re.compile(r"{{-?\s*(.*?)\s*-?}}")
FIELD = re.compile(r"\.(Name|Namespace)")
ENTRY = re.compile(r"\.(Labels|Annotations)\.([A-Za-z_]\w*)")
INDEX = re.compile(r"""index\s+\.(Labels|Annotations)\s+["`]([^"`]+)["`]""")


def expanded(value: Any, metadata: ObjectMeta) -> Any:
    """value with every template in its strings filled in. Raises InvalidPredictor."""
    if isinstance(value, str):
        return TEMPLATE.sub(lambda found: _text(found[1], metadata), value)
    if isinstance(value, list):
        return [expanded(each, metadata) for each in value]
    if isinstance(value, dict):
        return {key: expanded(each, metadata) for key, each in value.items()}
    return value


def _text(expression: str, metadata: ObjectMeta) -> str:
    if found := FIELD.fullmatch(expression):
        return metadata.name if found[1] == "Name" else metadata.namespace
    if found := ENTRY.fullmatch(expression) or INDEX.fullmatch(expression):
        entries = metadata.labels if found[1] == "Labels" else metadata.annotations
        return entries.get(found[2], "")
    raise InvalidPredictor(
        Failure.INVALID_PREDICTOR_SPEC,
        f"the runtime's template {{{{{expression}}}}} is none of {{{{.Name}}}}, "
        "{{.Namespace}}, "
        '{{.Labels.key}}, {{.Annotations.key}}, {{index .Annotations "key"}}',
    )
