"""The end of `rushes serve run`."""

from __future__ import annotations

import os
import signal
import threading
import weakref

import pytest

from cluster.db.connect import Database
from serve import main


class Callback:
    """Something that is let go of."""


@pytest.mark.timeout(20)
def test_a_signal_that_the_interpreter_loses_ends_the_service(monkeypatch):
    before, asked = signal.getsignal(signal.SIGTERM), threading.Event()
    main._end_on_sigterm(asked)
    monkeypatch.setattr(main, "probe", lambda url: (True, {}))
    try:
        thing = Callback()
        watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        # the exception of the handler is lost in the callback
        del thing
        assert watched() is None
        main._stay(Database("postgresql://127.0.0.1:1/none", embedded=False), "http://127.0.0.1:1", asked, print)
    finally:
        signal.signal(signal.SIGTERM, before)
