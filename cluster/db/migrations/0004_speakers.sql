-- People across files: what persons said of them, what the machine makes of it, and what both come to.
CREATE TABLE speakers (
    speaker_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL CHECK (name <> ''),
    first_name  text NOT NULL,
    merged_into bigint REFERENCES speakers,
    root_id     bigint REFERENCES speakers,
    is_used     boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (merged_into <> speaker_id)
);
CREATE UNIQUE INDEX speakers_name ON speakers (lower(name)) WHERE is_used AND merged_into IS NULL;
CREATE INDEX speakers_root ON speakers (root_id);
COMMENT ON TABLE speakers IS 'named persons; name, merged_into, root_id and is_used follow from the standing events';
COMMENT ON COLUMN speakers.first_name IS 'the name before any rename';
COMMENT ON COLUMN speakers.root_id IS 'whom this one is merged into, through any number of merges; itself when not';
COMMENT ON COLUMN speakers.is_used IS 'a standing event names it; the name of one that is not used is free';

-- What persons decided. Rows are added, never changed: an undo is one more row. Only `forget` removes any.
CREATE TABLE speaker_events (
    event_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text NOT NULL
               CHECK (kind IN ('label', 'enroll', 'split', 'part', 'rename', 'merge', 'undo', 'redo')),
    speaker_id bigint REFERENCES speakers,
    into_id    bigint REFERENCES speakers,
    name       text CHECK (name <> ''),
    undoes     bigint REFERENCES speaker_events ON DELETE CASCADE,
    author     text NOT NULL CHECK (author <> ''),
    at         timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind IN ('undo', 'redo')) = (undoes IS NOT NULL)),
    CHECK ((kind = 'merge') = (into_id IS NOT NULL)),
    CHECK ((kind = 'rename') = (name IS NOT NULL))
);
CREATE INDEX speaker_events_undoes ON speaker_events (undoes, event_id DESC) WHERE undoes IS NOT NULL;
COMMENT ON COLUMN speaker_events.undoes IS 'of an undo or a redo: the event that it takes back or brings back';

CREATE VIEW standing_events AS
    SELECT * FROM speaker_events e WHERE undoes IS NULL AND coalesce((SELECT u.kind FROM speaker_events u
      WHERE u.undoes = e.event_id ORDER BY u.event_id DESC LIMIT 1), 'redo') = 'redo';
COMMENT ON VIEW standing_events IS 'events that nobody took back';

CREATE TABLE speaker_marks (
    mark_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id   bigint NOT NULL REFERENCES speaker_events ON DELETE CASCADE,
    asset_id   bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    start_ms   int NOT NULL CHECK (start_ms >= 0),
    end_ms     int NOT NULL CHECK (end_ms > start_ms),
    scope      text NOT NULL CHECK (scope IN ('segment', 'speaker', 'part')),
    speaker_id bigint REFERENCES speakers,
    part       smallint CHECK (part >= 0),
    CHECK ((scope = 'part') = (part IS NOT NULL)),
    CHECK (scope <> 'part' OR speaker_id IS NULL)
);
CREATE INDEX speaker_marks_asset ON speaker_marks (asset_id);
CREATE INDEX speaker_marks_event ON speaker_marks (event_id);
CREATE INDEX speaker_marks_speaker ON speaker_marks (speaker_id);
COMMENT ON TABLE speaker_marks IS 'where an event points: a time of an asset, which outlives every segmentation of it';
COMMENT ON COLUMN speaker_marks.scope IS
    'segment: who speaks at this time; speaker: whose the voice of this time is; part: it goes into this part of a cluster';
COMMENT ON COLUMN speaker_marks.speaker_id IS 'NULL: a person says that nobody known speaks';

CREATE TABLE superseded_marks (
    mark_id    bigint NOT NULL REFERENCES speaker_marks ON DELETE CASCADE,
    by_mark_id bigint NOT NULL REFERENCES speaker_marks ON DELETE CASCADE,
    PRIMARY KEY (mark_id, by_mark_id)
);
CREATE INDEX superseded_marks_by ON superseded_marks (by_mark_id);

CREATE VIEW standing_marks AS
    SELECT m.* FROM speaker_marks m JOIN standing_events USING (event_id)
    WHERE NOT EXISTS (SELECT 1 FROM superseded_marks s JOIN speaker_marks b ON b.mark_id = s.by_mark_id
      JOIN standing_events e ON e.event_id = b.event_id WHERE s.mark_id = m.mark_id);
COMMENT ON VIEW standing_marks IS 'marks of standing events that no standing event took the place of';

-- What a voice inside one asset is. The last six columns are what human decisions, clusters and recognition come to.
ALTER TABLE local_speakers
    ADD COLUMN is_ghost   boolean NOT NULL DEFAULT false,
    ADD COLUMN is_grouped boolean NOT NULL DEFAULT false,
    ADD COLUMN speaker_id bigint REFERENCES speakers,
    ADD COLUMN method     text CHECK (method IN ('human', 'cluster', 'knn')),
    ADD COLUMN score      real,
    ADD COLUMN margin     real,
    ADD COLUMN tau        real,
    ADD COLUMN run_id     uuid REFERENCES runs,
    ADD CHECK (method = 'human' OR (method IS NULL) = (speaker_id IS NULL));
CREATE INDEX local_speakers_speaker ON local_speakers (speaker_id) WHERE speaker_id IS NOT NULL;
COMMENT ON COLUMN local_speakers.is_ghost IS 'under 2 % of the speech and no segment over 2 s: no person, most likely';
COMMENT ON COLUMN local_speakers.is_grouped IS
    'found among the voices of an asset whose segments carry no local speaker; its segments are in segment_groups';
COMMENT ON COLUMN local_speakers.speaker_id IS 'NULL: unknown; with method human: a person says so';
UPDATE local_speakers l SET is_ghost = speech_ms * 50 < (SELECT sum(speech_ms) FROM local_speakers o
      WHERE o.asset_id = l.asset_id)
    AND NOT EXISTS (SELECT 1 FROM segments s WHERE (s.asset_id, s.local_speaker) = (l.asset_id, l.local_speaker)
      AND s.end_ms - s.start_ms > 2000);

CREATE TABLE segment_groups (
    segment_id    bigint PRIMARY KEY REFERENCES segments ON DELETE CASCADE,
    asset_id      bigint NOT NULL,
    local_speaker smallint NOT NULL,
    FOREIGN KEY (asset_id, local_speaker) REFERENCES local_speakers ON DELETE CASCADE
);
CREATE INDEX segment_groups_local_speaker ON segment_groups (asset_id, local_speaker);

CREATE TABLE segment_labels (
    segment_id bigint PRIMARY KEY REFERENCES segments ON DELETE CASCADE,
    speaker_id bigint REFERENCES speakers,
    mark_id    bigint NOT NULL REFERENCES speaker_marks ON DELETE CASCADE
);
CREATE INDEX segment_labels_speaker ON segment_labels (speaker_id);
CREATE INDEX segment_labels_mark ON segment_labels (mark_id);
COMMENT ON TABLE segment_labels IS 'segments whose speaker a person gave by themselves; NULL: nobody known';

CREATE TABLE voice_clusters (
    cluster_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space_id   int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    run_id     uuid REFERENCES runs,
    split_of   bigint REFERENCES voice_clusters ON DELETE CASCADE,
    event_id   bigint REFERENCES speaker_events ON DELETE CASCADE,
    part       smallint,
    UNIQUE (split_of, event_id, part),
    CHECK ((split_of IS NULL) = (event_id IS NULL) AND (split_of IS NULL) = (part IS NULL))
);
COMMENT ON TABLE voice_clusters IS 'voices that belong together; parts of a cluster that a person split name it in split_of';

CREATE TABLE cluster_members (
    asset_id      bigint NOT NULL,
    local_speaker smallint NOT NULL,
    space_id      int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    found_in      bigint NOT NULL REFERENCES voice_clusters ON DELETE CASCADE,
    cluster_id    bigint NOT NULL REFERENCES voice_clusters ON DELETE CASCADE,
    similarity    real NOT NULL,
    speaker_id    bigint REFERENCES speakers,
    score         real,
    margin        real,
    tau           real,
    PRIMARY KEY (asset_id, local_speaker, space_id),
    FOREIGN KEY (asset_id, local_speaker) REFERENCES local_speakers ON DELETE CASCADE
);
CREATE INDEX cluster_members_cluster ON cluster_members (cluster_id);
CREATE INDEX cluster_members_found_in ON cluster_members (found_in);
CREATE INDEX cluster_members_speaker ON cluster_members (speaker_id) WHERE speaker_id IS NOT NULL;
COMMENT ON COLUMN cluster_members.found_in IS 'where clustering put it; cluster_id is where it is after the splits of persons';
COMMENT ON COLUMN cluster_members.similarity IS 'cosine to the centroid of the cluster';
COMMENT ON COLUMN cluster_members.speaker_id IS 'whose name the labelled members of the cluster offer it';

CREATE TABLE identifications (
    asset_id      bigint NOT NULL,
    local_speaker smallint NOT NULL,
    space_id      int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    speaker_id    bigint NOT NULL REFERENCES speakers,
    score         real NOT NULL,
    margin        real,
    tau           real NOT NULL,
    is_accepted   boolean NOT NULL,
    run_id        uuid REFERENCES runs,
    PRIMARY KEY (asset_id, local_speaker),
    FOREIGN KEY (asset_id, local_speaker) REFERENCES local_speakers ON DELETE CASCADE
);
CREATE INDEX identifications_speaker ON identifications (speaker_id);
CREATE INDEX identifications_run ON identifications (run_id);
COMMENT ON TABLE identifications IS 'the nearest known voice at the last look, near enough or not';
CREATE TABLE recognised_from (
    run_id     uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    speaker_id bigint NOT NULL REFERENCES speakers ON DELETE CASCADE,
    mark_id    bigint NOT NULL,
    PRIMARY KEY (run_id, speaker_id, mark_id)
);
CREATE INDEX recognised_from_mark ON recognised_from (mark_id);
CREATE INDEX recognised_from_speaker ON recognised_from (speaker_id);
COMMENT ON TABLE recognised_from IS
    'the labels that made a person known when a run recognised voices: its names count while all of these stand';
COMMENT ON COLUMN identifications.margin IS 'score less that of the next speaker; NULL: there is no other';

CREATE TABLE calibrations (
    calibration_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space_id       int NOT NULL REFERENCES spaces ON DELETE CASCADE,
    at             timestamptz NOT NULL DEFAULT now(),
    speakers       int NOT NULL,
    voices         int NOT NULL,
    fpir           real NOT NULL,
    taus           jsonb NOT NULL
);
COMMENT ON COLUMN calibrations.taus IS '[[speakers in the gallery, score accepted from], ...], ascending';

CREATE TABLE forgotten_voices (
    asset_id bigint NOT NULL REFERENCES assets ON DELETE CASCADE,
    start_ms int NOT NULL,
    end_ms   int NOT NULL CHECK (end_ms > start_ms)
);
CREATE INDEX forgotten_voices_asset ON forgotten_voices (asset_id);
COMMENT ON TABLE forgotten_voices IS 'times whose voice prints a person had deleted: none is kept of them again';

CREATE VIEW segment_speakers AS
    SELECT s.segment_id, s.asset_id, s.idx, s.start_ms, s.end_ms, coalesce(s.local_speaker, g.local_speaker) AS local_speaker,
      p.root_id AS speaker_id, CASE WHEN m.segment_id IS NULL THEN l.method ELSE 'human' END AS method,
      CASE WHEN m.segment_id IS NULL THEN l.score END AS score, m.segment_id IS NOT NULL AS is_labelled
    FROM segments s LEFT JOIN segment_groups g USING (segment_id)
    LEFT JOIN local_speakers l ON l.asset_id = s.asset_id AND l.local_speaker = coalesce(s.local_speaker, g.local_speaker)
    LEFT JOIN segment_labels m USING (segment_id)
    LEFT JOIN speakers p ON p.speaker_id = CASE WHEN m.segment_id IS NULL THEN l.speaker_id ELSE m.speaker_id END;
COMMENT ON VIEW segment_speakers IS 'who speaks in each segment, after all decisions; speaker_id NULL: unknown';

-- Voice spaces that stand already; new ones get their tables when they are made.
DO $$
DECLARE s record;
BEGIN
    FOR s IN SELECT space_id, dimension, storage FROM spaces WHERE kind = 'voice' LOOP
        EXECUTE format('CREATE TABLE local_voices_%s (asset_id bigint NOT NULL, local_speaker smallint NOT NULL,'
            ' clean_ms bigint NOT NULL, embedding %s(%s) NOT NULL, PRIMARY KEY (asset_id, local_speaker),'
            ' FOREIGN KEY (asset_id, local_speaker) REFERENCES local_speakers ON DELETE CASCADE)',
            s.space_id, s.storage, s.dimension);
        EXECUTE format('CREATE TABLE speaker_means_%s (speaker_id bigint PRIMARY KEY REFERENCES speakers ON DELETE CASCADE,'
            ' voices bigint NOT NULL, mean vector(%s) NOT NULL)', s.space_id, s.dimension);
    END LOOP;
END $$;
