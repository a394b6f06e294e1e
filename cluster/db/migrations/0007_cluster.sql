-- Which node works on a unit, which job a run is, and what stages cost on which hardware.
ALTER TABLE units ADD COLUMN node text;
COMMENT ON COLUMN units.node IS 'the host that claimed the unit last';

ALTER TABLE crash_claims ADD COLUMN node text;
COMMENT ON COLUMN crash_claims.node IS 'the cluster node of the process; NULL outside a cluster';

ALTER TABLE runs
    ADD COLUMN job           text,
    ADD COLUMN cancel_asked_at timestamptz;
COMMENT ON COLUMN runs.job IS 'the submission id of the Ray job that the run is a part of; NULL: started by hand';
COMMENT ON COLUMN runs.cancel_asked_at IS 'when somebody asked for its end; the driver ends it after the commits in progress';
CREATE INDEX runs_job ON runs (job) WHERE job IS NOT NULL;

CREATE TABLE stage_rates (
    hardware         text NOT NULL,
    stage            text NOT NULL,
    identity         text NOT NULL,
    s_per_media_hour double precision NOT NULL CHECK (s_per_media_hour >= 0),
    load_s           double precision NOT NULL CHECK (load_s >= 0),
    host_gib         double precision NOT NULL CHECK (host_gib >= 0),
    device_gib       double precision NOT NULL CHECK (device_gib >= 0),
    media_s          double precision NOT NULL CHECK (media_s > 0),
    assets           int NOT NULL CHECK (assets > 0),
    measured_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (hardware, stage, identity)
);
COMMENT ON TABLE stage_rates IS 'what `rushes calibrate` measured: one actor, one thread on a CPU, the whole card on a GPU';
COMMENT ON COLUMN stage_rates.hardware IS 'the card, or the CPU for a stage that uses none';
COMMENT ON COLUMN stage_rates.identity IS 'SHA-256 of what the stage is made of: version, model, precision, parameters';

-- How fast a unit's row went, so that the slowest of a million are found without reading them all.
ALTER TABLE units ADD COLUMN pace real;
COMMENT ON COLUMN units.pace IS 'media seconds per second of work of the row it was committed with; NULL: without length';
UPDATE units u SET pace = (
    SELECT a.duration_ms / 1000.0 / nullif((SELECT sum(value::float8) FROM jsonb_each_text(u.detail->'timings')), 0)
    FROM assets a WHERE a.asset_id = u.asset_id AND a.duration_ms > 0)
WHERE state = 'done';

-- What is open is found without what is done; what a run did, by asset, by time and by pace, without its rows.
DROP INDEX units_run;
CREATE INDEX units_run ON units (run_id, asset_id, state);
CREATE INDEX units_started ON units (run_id, started_at);
CREATE INDEX units_finished ON units (run_id, finished_at);
CREATE INDEX units_pace ON units (run_id, pace) WHERE pace IS NOT NULL;
CREATE INDEX units_running ON units (run_id) WHERE state = 'running';
CREATE INDEX units_failed ON units (lane, fingerprint) WHERE state = 'failed';
CREATE INDEX units_skipped ON units (lane, fingerprint) WHERE state = 'skipped';
CREATE INDEX units_unread ON units (lane, fingerprint) WHERE state = 'skipped' AND reason = 'the content could not be read';
CREATE INDEX assets_unread ON assets (asset_id) WHERE media_kind IS NULL;
CREATE INDEX sources_gone ON sources (uri) WHERE gone_at IS NOT NULL;
-- A fifth of a million dead rows is too long to wait for.
ALTER TABLE units SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- Changes are appended and added up now and then (cluster/db/counts.py): no writer waits for another.
CREATE TABLE unit_counts (
    run_id      uuid,
    node        text,
    lane        text NOT NULL,
    fingerprint text NOT NULL,
    state       text NOT NULL,
    units       bigint NOT NULL,
    media_ms    bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE unit_counts IS 'units by everything they are counted by: the sum over its rows is the count, as triggers keep it';

CREATE FUNCTION count_units() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM unit_counts;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO unit_counts SELECT run_id, node, lane, fingerprint, state, count(*), coalesce(sum(duration_ms), 0)
        FROM added JOIN assets USING (asset_id) GROUP BY 1, 2, 3, 4, 5;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO unit_counts SELECT run_id, node, lane, fingerprint, state, -count(*), -coalesce(sum(duration_ms), 0)
        FROM removed JOIN assets USING (asset_id) GROUP BY 1, 2, 3, 4, 5;
    ELSE
        INSERT INTO unit_counts
        SELECT run_id, node, lane, fingerprint, state, sum(n), coalesce(sum(n * duration_ms), 0)
        FROM (SELECT run_id, node, lane, fingerprint, state, asset_id, 1 AS n FROM added
              UNION ALL SELECT run_id, node, lane, fingerprint, state, asset_id, -1 FROM removed) t
        JOIN assets USING (asset_id) GROUP BY 1, 2, 3, 4, 5
        HAVING sum(n) <> 0 OR coalesce(sum(n * duration_ms), 0) <> 0;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER count_added AFTER INSERT ON units REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_units();
CREATE TRIGGER count_changed AFTER UPDATE ON units REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_units();
CREATE TRIGGER count_removed AFTER DELETE ON units REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION count_units();
CREATE TRIGGER count_truncated AFTER TRUNCATE ON units FOR EACH STATEMENT EXECUTE FUNCTION count_units();

-- The length of an asset is counted with each of its units: it may change, and is still there while they go.
CREATE FUNCTION count_media() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM units WHERE asset_id = OLD.asset_id;
        RETURN OLD;
    END IF;
    INSERT INTO unit_counts
    SELECT run_id, node, lane, fingerprint, state, 0, coalesce(NEW.duration_ms, 0) - coalesce(OLD.duration_ms, 0)
    FROM units WHERE asset_id = NEW.asset_id;
    RETURN NULL;
END $$;
CREATE TRIGGER units_first BEFORE DELETE ON assets FOR EACH ROW EXECUTE FUNCTION count_media();
CREATE TRIGGER length_changed AFTER UPDATE ON assets FOR EACH ROW
    WHEN (OLD.duration_ms IS DISTINCT FROM NEW.duration_ms) EXECUTE FUNCTION count_media();

INSERT INTO unit_counts SELECT run_id, node, lane, fingerprint, state, count(*), coalesce(sum(duration_ms), 0)
FROM units JOIN assets USING (asset_id) GROUP BY 1, 2, 3, 4, 5;
