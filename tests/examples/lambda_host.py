"""Stands in for Lambda's runtime: calls ``lambda_handler.handler`` with each line that comes in, in one process.

The platform itself cannot be had here. What it gives a function is real all the same when this runs where nothing but
the temporary folder can be written to.
"""

import json
import os
import sys
import time
from pathlib import Path

from lambda_handler import handler


class Context:
    def __init__(self, left_s: float) -> None:
        self.until = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self.until - time.monotonic()) * 1_000)


def writable(place: str) -> bool:
    try:
        Path(place, "probe").write_text("")
    except OSError:
        return False
    return True


print(json.dumps([place for place in sys.argv[1:] if writable(place)]), flush=True)
for line in sys.stdin:
    event, left_s = json.loads(line)
    context = Context(left_s)
    said = handler(event, context)
    print(json.dumps([said, context.get_remaining_time_in_millis() / 1_000]), flush=True)
os._exit(0)  # the platform ends a process without asking it
