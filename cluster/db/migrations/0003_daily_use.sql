-- What people and their downloaders say of an asset, beside what its content says.
ALTER TABLE assets
    ADD COLUMN title        text,
    ADD COLUMN channel      text,
    ADD COLUMN audio_sha256 bytea CHECK (octet_length(audio_sha256) = 32),
    DROP CONSTRAINT assets_recorded_at_origin_check,
    ADD CONSTRAINT assets_recorded_at_origin_check CHECK (recorded_at_origin IN ('tag', 'name', 'mtime', 'info'));
COMMENT ON COLUMN assets.audio_sha256 IS 'of the decoded sound: the key of its voices in the voice caches';
CREATE INDEX assets_channel ON assets (lower(channel)) WHERE channel IS NOT NULL;

CREATE TABLE asset_tags (
    asset_id bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    tag      text NOT NULL CHECK (tag <> ''),
    PRIMARY KEY (asset_id, tag)
);
CREATE INDEX asset_tags_tag ON asset_tags (lower(tag));

CREATE TABLE asset_collections (
    asset_id   bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    collection text NOT NULL CHECK (collection <> ''),
    PRIMARY KEY (asset_id, collection)
);
CREATE INDEX asset_collections_collection ON asset_collections (lower(collection));

CREATE TABLE given_turns (
    asset_id      bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    idx           int NOT NULL CHECK (idx >= 0),
    start_ms      int NOT NULL CHECK (start_ms >= 0),
    end_ms        int NOT NULL CHECK (end_ms > start_ms),
    local_speaker smallint CHECK (local_speaker >= 0),
    speaker       text CHECK (speaker <> ''),
    PRIMARY KEY (asset_id, idx),
    CHECK ((local_speaker IS NULL) = (speaker IS NULL))
);
COMMENT ON TABLE given_turns IS 'who speaks when, as a person gave it (RTTM); it stands in for the diarizer, in every rerun too';

ALTER TABLE sources ADD COLUMN gone_at timestamptz;
COMMENT ON COLUMN sources.gone_at IS 'since when the source is not there any more; NULL: it was there when last looked for';

CREATE OR REPLACE VIEW asset_names AS
    SELECT a.asset_id, coalesce(min(s.uri) FILTER (WHERE s.gone_at IS NULL), min(s.uri),
      'sha256:' || left(encode(a.sha256, 'hex'), 12)) AS name
    FROM assets a LEFT JOIN sources s USING (asset_id) GROUP BY a.asset_id, a.sha256;
