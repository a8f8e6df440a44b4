"""Where a connection stands between its requests.

FRESH ─▶ HEAD ─▶ DECIDING ─▶ BODY ⇄ HELD_UP
  │       ▲ │         └────┐   │
  │       │ └─────────────▶ANSWERING ─▶ WAITING ─▶ HEAD …       (pipelined bytes are held)
  │       └ WAITING            │
  └ "PRI * HTTP/2.0" ─▶ whoever speaks HTTP/2      any ─▶ LINGERING ─▶ CLOSED
"""

import math
from enum import Enum, auto

NEVER = math.inf  # the deadline of what may take any time


class State(Enum):
    FRESH = auto()  # nothing has come yet, or what may be HTTP/2
    WAITING = auto()  # for the next request
    HEAD = auto()  # some of a head has come
    DECIDING = auto()  # the application has the head, and cannot take the body yet
    BODY = auto()
    HELD_UP = auto()  # the application takes no more of the body for now
    ANSWERING = auto()  # nothing more of this request is read
    LINGERING = auto()  # all is said; what comes is dropped, until the client ends its half
    CLOSED = auto()
