"""What a backfill sends to a cluster: its command, its id, its environment; nothing here touches a cluster."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import UsageError
from cluster.media.remote import names_secret
from cluster.settings import Settings, settings_to_dict

ENTRY = ("python", "-m", "jobs.cli.main", "ingest")
# One argument of `sh -c` takes 128 KiB on Linux, and the whole command is one.
MOST_COMMAND_BYTES = 120_000
# Ray kills a job that does not end so many seconds after it was told to: the commits in progress end first.
STOP_WAIT_S = 600

# Of this machine alone: every node has its own.
_HERE = frozenset({"data_dir", "database_url", "cpus", "runner"})
# They say how work is done, and nothing of what comes of it.
_HOW = (
    *("plan", "serve", "cache_bytes", "database_url_file", "database_wait_s", "retry_base_s", "worker_niceness"),
    *("decode_base_s", "decode_s_per_hour", "decode_memory_bytes", "pictures_base_s", "pictures_s_per_hour"),
    *("stage_base_s", "stage_s_per_hour"),
)
_SECRETS = (
    re.compile(r"://[^/\s@]*:[^/\s@]+@"),
    re.compile(r"(?i)\bpassword\s*=\s*\S"),
)
# By looking ahead, so that a name is found inside what another one takes up too.
_QUERY_NAMES = re.compile(r"(?=[?&]([^=&\s]+)=[^&\s])")
_ID = re.compile(r"rushes-([0-9a-f]{12})-([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Submission:
    """One selection as a job: its command, what names it, and the runtime environment it asks for.

    `key` is the same for every submission that would do the same; `address` is that of the dashboard.
    """

    words: tuple[str, ...]
    key: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    address: str | None = None

    @property
    def entrypoint(self) -> str:
        """The command of the job."""
        return shlex.join([*ENTRY, *self.words])

    def ray_line(self, job_id: str, *, wait: bool = True) -> str:
        """The command that submits it, as a shell takes it."""
        place = [f"RAY_API_SERVER_ADDRESS={shlex.quote(self.address)}"] if self.address else []
        env = dict(self.runtime_env)
        directory = ["--working-dir", env.pop("working_dir")] if "working_dir" in env else []
        words = ["ray", "job", "submit", "--submission-id", job_id, *directory]
        words += ["--runtime-env-json", json.dumps(env, sort_keys=True), *([] if wait else ["--no-wait"]), "--"]
        return " ".join([*place, shlex.join([*words, *ENTRY, *self.words])])


def travelling(settings: Settings) -> dict[str, str]:
    """The settings that differ from their defaults, as the environment of the job; no secret is among them."""
    given = differing(settings_to_dict(settings))
    return {f"RUSHES_{name.upper()}": _as_variable(value) for name, value in given.items() if name not in _HERE}


def differing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run or a command that are not as they come, unset fields left out."""
    usual = Settings.model_construct().model_dump(mode="json")
    given = {name: _without_none(value) for name, value in values.items()}
    return {
        name: value for name, value in given.items() if value is not None and value != _without_none(usual.get(name))
    }


def _as_variable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


def key_of(selection: Mapping[str, Any], settings: Settings) -> str:
    """12 hex digits that name what would be done: the selection and the settings that decide its results.

    The order of what may be repeated does not matter; values that say nothing are left out.
    """
    names = {f"RUSHES_{name.upper()}" for name in _HOW}
    decisive = {name: value for name, value in travelling(settings).items() if name not in names}
    asked = {name: _canonical(value) for name, value in selection.items() if value not in (None, False, [], ())}
    text = json.dumps({"selection": asked, "settings": decisive}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    return sorted(set(value)) if isinstance(value, list | tuple) else value


def job_id_of(key: str, attempt: int) -> str:
    """The submission id of an attempt, counted from 1."""
    return f"rushes-{key}-{attempt}"


def attempt_of(job_id: str | None, key: str) -> int:
    """Which attempt at this selection a submission id names; 0 for another selection's."""
    match = _ID.fullmatch(job_id or "")
    return int(match[2]) if match and match[1] == key else 0


def bears_secret(text: str) -> bool:
    """Whether it holds a password: in an address, in its query, or as libpq writes one."""
    return any(pattern.search(text) for pattern in _SECRETS) or any(map(names_secret, _QUERY_NAMES.findall(text)))


def refuse_what_cannot_travel(words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Raise `UsageError` for a secret, which everybody who sees the dashboard could read, and for too many words."""
    what = next((_named(word) for word in words if bears_secret(word)), None)
    what = what or next((name for name, value in variables.items() if bears_secret(value)), None)
    if what is not None:
        raise UsageError(
            f"{what} holds a password or a key, and everybody who sees the dashboard can read a job: give it to the "
            "nodes in their environment or in a file instead (docs/backfill.md)"
        )
    size = len(shlex.join(words).encode("utf-8", "surrogateescape"))
    if size > MOST_COMMAND_BYTES:
        raise UsageError(
            f"the inputs are {size:,} bytes long, and a job takes {MOST_COMMAND_BYTES:,}: name their folders or "
            "patterns, or `rushes ingest` the list once and submit without inputs"
        )


def _named(word: str) -> str:
    """The word without what it hides."""
    return re.sub(r"(=|://).*", r"\1...", word, flags=re.DOTALL)
