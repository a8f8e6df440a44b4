"""A line per request where the operator asked for it: access, and KServe's latency line (§6.6)."""

import logging
import time
from collections.abc import Mapping

from headrace.http import Exchange
from headrace.server.rest.answer import Answer
from headrace.server.rest.call import Call

access = logging.getLogger("headrace.access")
trace = logging.getLogger("headrace.trace")

# uvicorn's %-names: h client, r request line, m method, U path, q query, H version, s status,
# B and b bytes of the body, a user agent, f referer, T seconds, D microseconds, M milliseconds.
# The same set that KServe's --access_log_format takes from asgi-logger.


def write_access(template: str, exchange: Exchange, call: Call, answer: Answer) -> None:
    """template: a %-format of the names in `fields`, e.g. `%(h)s %(r)s %(s)s %(D)s`."""
    values = fields(exchange, call.headers, answer)
    try:
        line = template % values
    except (KeyError, ValueError, TypeError) as err:
        line = f"{values['r']} {values['s']} (--access_log_format: {err!r})"
    access.info("%s", line)


def fields(exchange: Exchange, headers: Mapping[str, str], answer: Answer) -> dict[str, object]:
    method, target, version = exchange.method, exchange.target, exchange.version
    elapsed_ns = time.perf_counter_ns() - exchange.started_ns
    path, _, query = target.partition("?")
    peer = exchange.peer
    client = peer[0] if isinstance(peer, tuple) else "-"
    size = answer.size_bytes
    return {
        "h": client,
        "client_addr": client,
        "l": "-",
        "u": "-",
        "t": time.strftime("[%d/%b/%Y:%H:%M:%S %z]"),
        "r": f"{method} {target} {version}",
        "request_line": f"{method} {target} {version}",
        "R": f"{method} {path} {version}",
        "m": method,
        "U": path,
        "q": query,
        "H": version,
        "s": answer.status,
        "st": answer.status,
        "status_code": answer.status,
        "B": size,
        "b": size or "-",
        "f": headers.get("referer", "-"),
        "a": headers.get("user-agent", "-"),
        "T": elapsed_ns // 1_000_000_000,
        "M": elapsed_ns // 1_000_000,
        "D": elapsed_ns // 1000,
        "L": f"{elapsed_ns / 1e9:.6f}",
        "p": "-",
    }


def write_latency(call: Call, is_explain: bool) -> None:
    """KServe's text to the letter, since dashboards parse it; the figures are fields beside it."""
    stages = call.context.stages
    infer_ms = _ms(stages.compute_infer_ns)
    figures = {
        "preprocess_ms": _ms(stages.compute_input_ns),
        "explain_ms": infer_ms if is_explain else 0,
        "predict_ms": 0 if is_explain else infer_ms,
        "postprocess_ms": _ms(stages.compute_output_ns),
    }
    request_id = call.headers.get("x-request-id", "N.A.")
    text = ", ".join(f"{name}: {value}" for name, value in figures.items())
    trace.info("requestId: %s, %s", request_id, text, extra={"request_id": request_id, **figures})


def _ms(ns: int) -> float:
    return round(ns / 1e6, 9) if ns else 0
