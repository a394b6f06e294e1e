-- What is shown: shots, keyframes and their hashes; near duplicates; clusters of pictures that look alike.
CREATE TABLE pictures (
    asset_id       bigint PRIMARY KEY REFERENCES assets ON DELETE CASCADE,
    width          int NOT NULL CHECK (width > 0),
    height         int NOT NULL CHECK (height > 0),
    samples        int NOT NULL CHECK (samples >= 0),
    sample_times   bytea NOT NULL CHECK (octet_length(sample_times) = 4 * samples),
    sample_hashes  bytea NOT NULL CHECK (octet_length(sample_hashes) = 8 * samples),
    is_compared    boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE pictures IS 'one row per asset whose frames lane is done: size as shown, and the hashes of its whole length for alignment';
COMMENT ON COLUMN pictures.sample_times IS 'little-endian int32 milliseconds, ascending; only informative samples are kept';
COMMENT ON COLUMN pictures.sample_hashes IS 'big-endian 64-bit pHashes in the order of sample_times';
COMMENT ON COLUMN pictures.is_compared IS 'compared with every asset that was compared before it';
CREATE INDEX pictures_waiting ON pictures (asset_id) WHERE NOT is_compared;

CREATE TABLE shots (
    asset_id bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    idx      int NOT NULL CHECK (idx >= 0),
    start_ms int NOT NULL CHECK (start_ms >= 0),
    end_ms   int NOT NULL CHECK (end_ms > start_ms),
    PRIMARY KEY (asset_id, idx)
);
COMMENT ON TABLE shots IS 'of videos only: what lies between two cuts';

CREATE TABLE frames (
    frame_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    asset_id       bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    idx            int NOT NULL CHECK (idx >= 0),
    shot           int CHECK (shot >= 0),
    pts            bigint NOT NULL,
    time_base_num  int NOT NULL CHECK (time_base_num > 0),
    time_base_den  int NOT NULL CHECK (time_base_den > 0),
    t_ms           int NOT NULL CHECK (t_ms >= 0),
    phash          bit(64) NOT NULL,
    is_informative boolean NOT NULL,
    thumbnail      bytea NOT NULL CHECK (octet_length(thumbnail) = 32),
    band0 int GENERATED ALWAYS AS (substring(phash FROM 1 FOR 16)::bit(16)::int) STORED,
    band1 int GENERATED ALWAYS AS (substring(phash FROM 17 FOR 16)::bit(16)::int) STORED,
    band2 int GENERATED ALWAYS AS (substring(phash FROM 33 FOR 16)::bit(16)::int) STORED,
    band3 int GENERATED ALWAYS AS (substring(phash FROM 49 FOR 16)::bit(16)::int) STORED,
    UNIQUE (asset_id, idx)
);
COMMENT ON TABLE frames IS 'keyframes; an image is an asset with one';
COMMENT ON COLUMN frames.shot IS 'NULL: an image';
COMMENT ON COLUMN frames.t_ms IS 'from the start of the asset, rounded up: a player that seeks there shows this frame';
COMMENT ON COLUMN frames.is_informative IS 'false: flat or black, never compared';
COMMENT ON COLUMN frames.thumbnail IS 'SHA-256 of a JPEG in the store';
CREATE INDEX frames_band0 ON frames (band0) WHERE is_informative;
CREATE INDEX frames_band1 ON frames (band1) WHERE is_informative;
CREATE INDEX frames_band2 ON frames (band2) WHERE is_informative;
CREATE INDEX frames_band3 ON frames (band3) WHERE is_informative;
CREATE INDEX frames_thumbnail ON frames (thumbnail);

-- Written when a video is compared, for later ones to find: the probes of one among all anchors of the other.
CREATE TABLE anchors (
    asset_id bigint NOT NULL REFERENCES pictures ON DELETE CASCADE,
    phash    bit(64) NOT NULL,
    is_probe boolean NOT NULL,
    band0 int GENERATED ALWAYS AS (substring(phash FROM 1 FOR 16)::bit(16)::int) STORED,
    band1 int GENERATED ALWAYS AS (substring(phash FROM 17 FOR 16)::bit(16)::int) STORED,
    band2 int GENERATED ALWAYS AS (substring(phash FROM 33 FOR 16)::bit(16)::int) STORED,
    band3 int GENERATED ALWAYS AS (substring(phash FROM 49 FOR 16)::bit(16)::int) STORED,
    PRIMARY KEY (asset_id, phash)
);
COMMENT ON TABLE anchors IS 'the different hashes among the samples of a compared video, one of each still stretch';
COMMENT ON COLUMN anchors.is_probe IS 'one of a few that are spread over the whole length';
CREATE INDEX anchors_band0 ON anchors (band0);
CREATE INDEX anchors_band1 ON anchors (band1);
CREATE INDEX anchors_band2 ON anchors (band2);
CREATE INDEX anchors_band3 ON anchors (band3);
CREATE INDEX anchors_probes ON anchors (asset_id) WHERE is_probe;
CREATE INDEX anchors_probe0 ON anchors (band0) WHERE is_probe;
CREATE INDEX anchors_probe1 ON anchors (band1) WHERE is_probe;
CREATE INDEX anchors_probe2 ON anchors (band2) WHERE is_probe;
CREATE INDEX anchors_probe3 ON anchors (band3) WHERE is_probe;

CREATE TABLE near_duplicates (
    asset_a    bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    asset_b    bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    method     text NOT NULL CHECK (method IN ('picture', 'sequence')),
    distance   real NOT NULL CHECK (distance BETWEEN 0 AND 64),
    coverage_a real NOT NULL CHECK (coverage_a BETWEEN 0 AND 1),
    coverage_b real NOT NULL CHECK (coverage_b BETWEEN 0 AND 1),
    offset_ms  int NOT NULL,
    similarity real,
    PRIMARY KEY (asset_a, asset_b),
    CHECK (asset_a < asset_b)
);
CREATE INDEX near_duplicates_b ON near_duplicates (asset_b);
COMMENT ON TABLE near_duplicates IS 'what the machine found; people decide in duplicate_events';
COMMENT ON COLUMN near_duplicates.distance IS 'mean Hamming distance of the pHashes that were matched';
COMMENT ON COLUMN near_duplicates.coverage_a IS 'share of the informative samples of asset_a that asset_b shows too';
COMMENT ON COLUMN near_duplicates.offset_ms IS 'a moment t of asset_b is t + offset_ms of asset_a';
COMMENT ON COLUMN near_duplicates.similarity IS 'mean cosine of the image vectors of matched frames; NULL without an image space';

-- Append-only. The last event of a pair that was not taken back is in force; no rerun asks about it again.
CREATE TABLE duplicate_events (
    event_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    author     text NOT NULL,
    verdict    text NOT NULL CHECK (verdict IN ('copy', 'different', 'undo')),
    asset_a    bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    asset_b    bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    kept       bigint REFERENCES assets ON DELETE CASCADE,
    undoes     bigint UNIQUE REFERENCES duplicate_events ON DELETE CASCADE,
    CHECK (asset_a < asset_b),
    CHECK ((verdict = 'undo') = (undoes IS NOT NULL)),
    CHECK ((verdict = 'copy') = (kept IS NOT NULL)),
    CHECK (kept IN (asset_a, asset_b))
);
CREATE INDEX duplicate_events_pair ON duplicate_events (asset_a, asset_b);
CREATE INDEX duplicate_events_b ON duplicate_events (asset_b);
COMMENT ON COLUMN duplicate_events.kept IS 'of a copy: the asset that stands for both';

CREATE VIEW duplicate_decisions AS
    SELECT DISTINCT ON (asset_a, asset_b) e.* FROM duplicate_events e
    WHERE verdict <> 'undo' AND NOT EXISTS (SELECT 1 FROM duplicate_events u WHERE u.undoes = e.event_id)
    ORDER BY asset_a, asset_b, event_id DESC;

CREATE TABLE visual_clusters (
    cluster_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space_id   int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    asset_id   bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    idx        int NOT NULL CHECK (idx >= 0)
);
CREATE INDEX visual_clusters_space ON visual_clusters (space_id);
CREATE INDEX visual_clusters_asset ON visual_clusters (asset_id);
COMMENT ON TABLE visual_clusters IS 'pictures that look like their leader; its vector lies in the leaders table of the space';
COMMENT ON COLUMN visual_clusters.idx IS 'with asset_id: the frame that leads, by its place; the frame itself may be written anew';

CREATE TABLE visual_members (
    frame_id   bigint NOT NULL REFERENCES frames ON DELETE CASCADE,
    space_id   int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    cluster_id bigint NOT NULL REFERENCES visual_clusters ON DELETE CASCADE,
    similarity real NOT NULL,
    PRIMARY KEY (frame_id, space_id)
);
CREATE INDEX visual_members_cluster ON visual_members (cluster_id);

-- The rows of one asset run at the same time: what one settles says nothing of the other.
ALTER TABLE crash_claims ADD COLUMN root text;
COMMENT ON COLUMN crash_claims.root IS 'root lane of the row that is worked on; NULL where there is no row';
