"""Which failures are tried again, how often, and when: exponential backoff with jitter."""

from __future__ import annotations

from cluster.errors import FailureClass

MAX_ATTEMPTS = {
    FailureClass.BAD_MEDIA: 1,
    FailureClass.BUG: 1,
    FailureClass.CRASH: 2,
    FailureClass.TRANSIENT: 3,
    FailureClass.RESOURCE: 3,
    FailureClass.TIMEOUT: 3,
}
LONGEST_DELAY_S = 300.0


def next_try_s(failure: FailureClass, attempts: int, base_s: float, jitter: float) -> float | None:
    """Seconds until the next attempt after `attempts` charged ones, which may be none; None when there is none.

    The delay doubles from `base_s` up to five minutes; `jitter` in [0, 1) takes off up to half of it,
    so that units that failed together do not come back together (equal jitter, after the AWS
    Architecture Blog, "Exponential Backoff And Jitter", 2015).
    """
    if attempts >= MAX_ATTEMPTS[failure]:
        return None
    longest = min(base_s * 2 ** (attempts - 1), LONGEST_DELAY_S)
    return longest * (1 - jitter / 2)
