"""Python's clock is `CLOCK_AHEAD_S` seconds ahead of the machine's: on PYTHONPATH of a node in tests.

`datetime.now` is changed inside its type, because compiled modules crash on another type of that name.
"""

import ctypes
import datetime
import gc
import os
import time

AHEAD_S = float(os.environ["CLOCK_AHEAD_S"])
_time, _time_ns, _now = time.time, time.time_ns, datetime.datetime.now

time.time = lambda: _time() + AHEAD_S
time.time_ns = lambda: _time_ns() + int(AHEAD_S * 1e9)
gc.get_referents(datetime.datetime.__dict__)[0]["now"] = classmethod(
    lambda cls, tz=None: _now(tz) + datetime.timedelta(seconds=AHEAD_S)
)
ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
