CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE assets (
    asset_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256             bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    byte_size          bigint NOT NULL CHECK (byte_size >= 0),
    media_kind         text CHECK (media_kind IN ('video', 'audio', 'image')),
    container          text,
    duration_ms        bigint CHECK (duration_ms >= 0),
    audio_stream       int,
    width              int,
    height             int,
    fps                double precision,
    sample_rate_hz     int,
    channels           int,
    recorded_at        timestamptz,
    recorded_at_origin text CHECK (recorded_at_origin IN ('tag', 'name', 'mtime')),
    created_at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN assets.media_kind IS 'NULL: the content could not be read';

CREATE TABLE sources (
    uri       text PRIMARY KEY,
    asset_id  bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    byte_size bigint NOT NULL,
    mtime_ns  bigint,
    etag      text,
    seen_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sources_asset ON sources (asset_id);

CREATE VIEW asset_names AS
    SELECT a.asset_id, coalesce(min(s.uri), 'sha256:' || left(encode(a.sha256, 'hex'), 12)) AS name
    FROM assets a LEFT JOIN sources s USING (asset_id) GROUP BY a.asset_id, a.sha256;
COMMENT ON VIEW asset_names IS 'what to call an asset: its first source, or its content when no source leads to it any more';

CREATE TABLE runs (
    run_id      uuid PRIMARY KEY,
    kind        text NOT NULL,
    config      jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'running'
                CHECK (state IN ('running', 'done', 'partial', 'failed', 'interrupted', 'dead')),
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    planned     int NOT NULL DEFAULT 0,
    summary     jsonb
);
CREATE INDEX runs_running ON runs (run_id) WHERE state = 'running';

CREATE TABLE units (
    asset_id    bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    lane        text NOT NULL CHECK (lane IN ('speech', 'voices', 'texts', 'frames', 'images', 'story')),
    fingerprint text NOT NULL,
    state       text NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'running', 'done', 'failed', 'skipped')),
    generation  bigint NOT NULL DEFAULT 0,
    run_id      uuid REFERENCES runs,
    attempts    int NOT NULL DEFAULT 0,
    outputs     int CHECK (outputs >= 0),
    reason      text,
    detail      jsonb NOT NULL DEFAULT '{}',
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (asset_id, lane, fingerprint),
    CHECK (state <> 'done' OR outputs IS NOT NULL),
    CHECK (state <> 'running' OR run_id IS NOT NULL),
    CHECK (state NOT IN ('failed', 'skipped') OR reason IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX units_pending ON units (lane, fingerprint) WHERE state = 'pending';
CREATE INDEX units_run ON units (run_id);

CREATE TABLE failures (
    failure_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      uuid REFERENCES runs,
    asset_id    bigint REFERENCES assets ON DELETE CASCADE,
    uri         text,
    lane        text,
    fingerprint text,
    attempt     int NOT NULL DEFAULT 1,
    failure     text NOT NULL
                CHECK (failure IN ('bad_media', 'transient', 'resource', 'timeout', 'crash', 'bug')),
    stage       text NOT NULL,
    message     text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    CHECK (asset_id IS NOT NULL OR uri IS NOT NULL)
);
CREATE INDEX failures_unit ON failures (asset_id, lane, fingerprint, failure_id DESC);
CREATE INDEX failures_run ON failures (run_id);

CREATE TABLE segments (
    segment_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_id         bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    idx              int NOT NULL CHECK (idx >= 0),
    start_ms         int NOT NULL CHECK (start_ms >= 0),
    end_ms           int NOT NULL CHECK (end_ms > start_ms),
    local_speaker    smallint CHECK (local_speaker >= 0),
    text             text NOT NULL,
    words            jsonb NOT NULL,
    text_skip_reason text,
    UNIQUE (asset_id, idx)
);
COMMENT ON COLUMN segments.words IS '[[start_ms, end_ms, text, probability], ...]';
COMMENT ON COLUMN segments.local_speaker IS 'NULL: unknown';

CREATE TABLE local_speakers (
    asset_id      bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    local_speaker smallint NOT NULL CHECK (local_speaker >= 0),
    segments      int NOT NULL CHECK (segments > 0),
    speech_ms     bigint NOT NULL CHECK (speech_ms > 0),
    PRIMARY KEY (asset_id, local_speaker)
);

CREATE TABLE spaces (
    space_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('text', 'voice', 'image')),
    profile     text NOT NULL,
    model       text NOT NULL,
    dimension   int NOT NULL CHECK (dimension BETWEEN 1 AND 4000),
    storage     text NOT NULL CHECK (storage IN ('vector', 'halfvec')),
    choice      jsonb NOT NULL,
    identity    jsonb NOT NULL,
    config_hash text NOT NULL,
    table_name  text NOT NULL UNIQUE,
    is_active   boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, config_hash),
    CHECK (storage = 'halfvec' OR dimension <= 2000)
);
CREATE UNIQUE INDEX spaces_active ON spaces (kind) WHERE is_active;
COMMENT ON TABLE spaces IS 'one embedding space: kind + model + revision + dimension + preprocessing';

CREATE TABLE voices (
    segment_id  bigint NOT NULL REFERENCES segments ON DELETE CASCADE,
    space_id    int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    skip_reason text,
    PRIMARY KEY (segment_id, space_id)
);
CREATE INDEX voices_space ON voices (space_id);
COMMENT ON TABLE voices IS 'one row per segment and voice space; the vector lies in the space table, or skip_reason says why not';

CREATE TABLE chunks (
    chunk_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_id      bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    space_id      int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    idx           int NOT NULL CHECK (idx >= 0),
    first_segment int NOT NULL CHECK (first_segment >= 0),
    last_segment  int NOT NULL CHECK (last_segment >= first_segment),
    start_ms      int NOT NULL CHECK (start_ms >= 0),
    end_ms        int NOT NULL CHECK (end_ms > start_ms),
    text          text NOT NULL CHECK (text <> ''),
    tsv           tsvector GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED,
    UNIQUE (asset_id, space_id, idx)
);
CREATE INDEX chunks_tsv ON chunks USING gin (tsv);
