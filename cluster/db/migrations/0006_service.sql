-- Who may call the service, and how well its vector indexes find what is there.
CREATE TABLE api_keys (
    key_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL CHECK (name <> ''),
    sha256     bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    scope      text NOT NULL CHECK (scope IN ('read', 'write')),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE UNIQUE INDEX api_keys_name ON api_keys (lower(name)) WHERE revoked_at IS NULL;
COMMENT ON COLUMN api_keys.sha256 IS 'of the whole key; a key has 256 random bits, so that no slower hash is needed';
COMMENT ON COLUMN api_keys.scope IS 'write includes read';

ALTER TABLE spaces
    ADD COLUMN ef_search int CHECK (ef_search BETWEEN 1 AND 1000),
    ADD COLUMN recall    jsonb;
COMMENT ON COLUMN spaces.ef_search IS 'how many candidates a search keeps by default, from measured recall; NULL: never measured';
COMMENT ON COLUMN spaces.recall IS 'the last measurement of recall@k against exact search';

CREATE INDEX assets_recorded_at ON assets (recorded_at);
