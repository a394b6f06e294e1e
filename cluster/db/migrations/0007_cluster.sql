-- Which node works on a unit, which job a run is, and what stages cost on which hardware.
ALTER TABLE units ADD COLUMN node text;
COMMENT ON COLUMN units.node IS 'the host that claimed the unit last';

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
