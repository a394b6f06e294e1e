ALTER TABLE units ADD COLUMN not_before timestamptz;
COMMENT ON COLUMN units.not_before IS 'a pending unit that failed waits until then for its next attempt';
COMMENT ON COLUMN units.attempts IS 'failed attempts charged since the unit was last done or asked for again';

-- Unlogged: a claim costs no disk flush, and a server that dies takes the claims with it, which charges nobody.
CREATE UNLOGGED TABLE crash_claims (
    claim_id   uuid NOT NULL,
    asset_id   bigint NOT NULL,
    run_id     uuid NOT NULL,
    stage      text NOT NULL,
    deadline_s double precision NOT NULL,
    overdue    boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run_id, asset_id, claim_id)
);
COMMENT ON TABLE crash_claims IS 'work that may end its process; a claim still open when the row comes back is a crash';
COMMENT ON COLUMN crash_claims.overdue IS 'the deadline passed: the process ended itself, and the crash is a hang';
