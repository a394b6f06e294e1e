"""`rushes keys`: a key is printed once, kept as a hash, and ends when it is revoked."""

from __future__ import annotations

import json

import pytest

from cluster.db.api_keys import keys_in_force, match_key
from tests.api_client import api_over
from tests.test_cli import rushes


def test_a_key_is_printed_alone_and_opens_what_its_scope_says(db, db_url):
    made = rushes("keys", "create", "Press office", url=db_url)
    assert made.returncode == 0
    [key] = made.stdout.splitlines()
    assert key not in made.stderr
    assert "may read" in made.stderr
    found = match_key(keys_in_force(db), key)
    assert (found.name, found.scope) == ("Press office", "read")
    write = rushes("keys", "create", "editor", "--scope", "write", url=db_url).stdout.strip()
    assert match_key(keys_in_force(db), write).may_write
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        assert api.client.get("/v1/models").status_code == 401
        assert api.client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_the_list_tells_names_and_never_a_key_or_its_hash(db, db_url):
    assert "rushes keys create" in rushes("keys", "list", url=db_url).stdout
    key = rushes("keys", "create", "one", url=db_url).stdout.strip()
    rushes("keys", "create", "two", "--scope", "write", url=db_url)
    rushes("keys", "revoke", "TWO", "--yes", url=db_url)
    listed = rushes("keys", "list", "--json", url=db_url).stdout
    rows = json.loads(listed)
    assert [set(row) for row in rows] == [{"name", "scope", "created_at", "revoked_at"}] * 2
    assert [row["revoked_at"] is None for row in rows] == [True, False]
    text = rushes("keys", "list", url=db_url).stdout
    assert "revoked" in text
    assert "in force" in text
    [kept] = [bytes(row.sha256).hex() for row in keys_in_force(db)]
    for secret in (key, kept, kept[:12]):
        assert secret not in listed + text


def test_a_revoked_key_opens_nothing_and_its_name_is_free(db_url):
    key = rushes("keys", "create", "one", url=db_url).stdout.strip()
    headers = {"x-api-key": key}
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        assert api.client.get("/v1/models", headers=headers).status_code == 200
        assert rushes("keys", "revoke", "one", "--yes", url=db_url).stdout == "revoked 'one'\n"
        assert api.client.get("/v1/models", headers=headers).status_code == 401
        again = rushes("keys", "create", "one", url=db_url).stdout.strip()
        assert api.client.get("/v1/models", headers={"x-api-key": again}).status_code == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create", "one", "--scope", "all"], "--scope 'all': choose from read, write"),
        (["create", " "], "no name"),
        (["create", "".join(map(chr, range(33, 127))) * 200], "1 to 200 printable characters"),
        (["create", "ONE"], "'ONE' already"),
        (["revoke", "two", "--yes"], "no key in force has the name 'two'; in force: one"),
        (["revoke", "one"], "add --yes"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(words, message, db, db_url):
    rushes("keys", "create", "one", url=db_url)
    done = rushes("keys", *words, url=db_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert [key.name for key in keys_in_force(db)] == ["one"]
