-- Tables and views for the PostgreSQL sink. Apply it before the connectors, as the sink's own user; safe to repeat:
--   psql -v ON_ERROR_STOP=1 -1 -f schema.sql
-- Needs PostgreSQL 14 or newer.
--
-- The topics carry times as microseconds since the epoch; Connect has no type of its own for them and would round to
-- milliseconds. So each time is stored as it came, in `<name>_us`, and `<name>` is made of it, exact, with a time zone.

CREATE OR REPLACE FUNCTION auditgap_time(micros bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT (timestamp '1970-01-01' + micros * interval '1 microsecond') AT TIME ZONE 'UTC' $$;

CREATE TABLE IF NOT EXISTS compliance_gap (
    gap_id text PRIMARY KEY,
    incident_id text NOT NULL,
    revision integer NOT NULL,
    organization_id text,
    feed_id text,
    parent_id text,
    inherited_from text,
    superseded_by text,
    first_evidence_at_us bigint NOT NULL,
    first_evidence_at timestamptz GENERATED ALWAYS AS (auditgap_time(first_evidence_at_us)) STORED,
    produced_at_us bigint NOT NULL,
    produced_at timestamptz GENERATED ALWAYS AS (auditgap_time(produced_at_us)) STORED,
    state text NOT NULL,
    confidence text NOT NULL,
    cause text NOT NULL,
    opened_at_us bigint,
    opened_at timestamptz GENERATED ALWAYS AS (auditgap_time(opened_at_us)) STORED,
    opened_at_latest_us bigint,
    opened_at_latest timestamptz GENERATED ALWAYS AS (auditgap_time(opened_at_latest_us)) STORED,
    closed_at_us bigint,
    closed_at timestamptz GENERATED ALWAYS AS (auditgap_time(closed_at_us)) STORED,
    closed_at_earliest_us bigint,
    closed_at_earliest timestamptz GENERATED ALWAYS AS (auditgap_time(closed_at_earliest_us)) STORED,
    duration_seconds double precision,
    opened_by_kind text,
    opened_by_id text,
    closed_by_kind text,
    closed_by_id text,
    opened_actor_type text,
    opened_actor_id text,
    opened_actor_email text,
    opened_actor_ip text,
    opened_actor_user_agent text,
    closed_actor_type text,
    closed_actor_id text,
    closed_actor_email text,
    closed_actor_ip text,
    closed_actor_user_agent text,
    last_activity_id text,
    last_activity_at_us bigint,
    last_activity_at timestamptz GENERATED ALWAYS AS (auditgap_time(last_activity_at_us)) STORED,
    first_activity_id text,
    first_activity_at_us bigint,
    first_activity_at timestamptz GENERATED ALWAYS AS (auditgap_time(first_activity_at_us)) STORED,
    bracket_exact boolean NOT NULL,
    activity_inside_count bigint NOT NULL,
    activity_inside_first_id text,
    activity_inside_last_id text,
    access_inside_count bigint,
    access_inside_first_id text,
    access_inside_last_id text,
    authorised_at_open text NOT NULL,
    authorised_now text NOT NULL,
    change_window_id text,
    change_window_reason text,
    policy_version bigint,
    history_sequence bigint NOT NULL,
    previous_digest text
);

CREATE TABLE IF NOT EXISTS compliance_alert (
    alert_id text PRIMARY KEY,
    revision integer NOT NULL,
    status text NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL,
    gap_id text,
    incident_id text,
    organization_id text,
    feed_id text,
    parent_id text,
    occurred_at_us bigint,
    occurred_at timestamptz GENERATED ALWAYS AS (auditgap_time(occurred_at_us)) STORED,
    detected_at_us bigint NOT NULL,
    detected_at timestamptz GENERATED ALWAYS AS (auditgap_time(detected_at_us)) STORED,
    produced_at_us bigint NOT NULL,
    produced_at timestamptz GENERATED ALWAYS AS (auditgap_time(produced_at_us)) STORED,
    historical boolean NOT NULL,
    actor_type text,
    actor_id text,
    actor_email text,
    actor_ip text,
    actor_user_agent text,
    evidence text[] NOT NULL,
    summary text NOT NULL,
    triage text[] NOT NULL,
    attack_ids text[] NOT NULL,
    dedup_key text NOT NULL
);

CREATE TABLE IF NOT EXISTS compliance_status (
    subject text PRIMARY KEY,
    organization_id text,
    feed_id text,
    parent_id text,
    revision integer NOT NULL,
    produced_at_us bigint NOT NULL,
    produced_at timestamptz GENERATED ALWAYS AS (auditgap_time(produced_at_us)) STORED,
    audited text NOT NULL,
    reason text NOT NULL,
    since_us bigint,
    since timestamptz GENERATED ALWAYS AS (auditgap_time(since_us)) STORED,
    evidence_id text,
    last_proof_at_us bigint,
    last_proof_at timestamptz GENERATED ALWAYS AS (auditgap_time(last_proof_at_us)) STORED,
    last_observation_at_us bigint,
    last_observation_at timestamptz GENERATED ALWAYS AS (auditgap_time(last_observation_at_us)) STORED,
    open_gap_id text
);

-- A sink that starts again may write older revisions once more: a row never goes back.
CREATE OR REPLACE FUNCTION auditgap_keep_newest() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN IF NEW.revision < OLD.revision THEN RETURN NULL; END IF; RETURN NEW; END $$;

CREATE OR REPLACE TRIGGER keep_newest BEFORE UPDATE ON compliance_gap
    FOR EACH ROW EXECUTE FUNCTION auditgap_keep_newest();
CREATE OR REPLACE TRIGGER keep_newest BEFORE UPDATE ON compliance_alert
    FOR EACH ROW EXECUTE FUNCTION auditgap_keep_newest();
CREATE OR REPLACE TRIGGER keep_newest BEFORE UPDATE ON compliance_status
    FOR EACH ROW EXECUTE FUNCTION auditgap_keep_newest();

CREATE INDEX IF NOT EXISTS compliance_gap_organization ON compliance_gap (organization_id, opened_at);
CREATE INDEX IF NOT EXISTS compliance_alert_incident ON compliance_alert (incident_id);

-- What is off now, the longest first.
CREATE OR REPLACE VIEW compliance_gap_open AS
SELECT gap_id, incident_id, organization_id, feed_id, parent_id, inherited_from, confidence, cause,
       opened_at, opened_at_latest, now() - coalesce(opened_at, opened_at_latest) AS open_for,
       opened_by_kind, opened_by_id, opened_actor_type, opened_actor_id, opened_actor_email, opened_actor_ip,
       last_activity_id, last_activity_at, activity_inside_count, authorised_at_open, authorised_now
FROM compliance_gap
WHERE state = 'OPEN'
ORDER BY coalesce(opened_at, opened_at_latest);

-- Windows that nobody listed in the policy opened, or for which no policy was in force.
CREATE OR REPLACE VIEW compliance_gap_unauthorised AS
SELECT gap_id, incident_id, organization_id, feed_id, parent_id, state, confidence, cause,
       opened_at, opened_at_latest, closed_at, duration_seconds,
       opened_by_kind, opened_by_id, opened_actor_type, opened_actor_id, opened_actor_email, opened_actor_ip,
       authorised_at_open, authorised_now, change_window_id, change_window_reason
FROM compliance_gap
WHERE state IN ('OPEN', 'CLOSED') AND authorised_at_open <> 'LISTED'
ORDER BY opened_at_latest DESC;

-- Per organization and month (UTC; the current one up to now): how long it was off, certainly and at most, and which
-- share of the month can have been audited. These are the windows that are known. What silence hides is not in it:
-- the share that was proved to be audited is what `auditgap report` gives.
CREATE OR REPLACE VIEW compliance_coverage_monthly AS
WITH gaps AS (
    SELECT organization_id,
           tstzrange(opened_at, coalesce(closed_at, now())) AS possible,
           CASE WHEN confidence = 'CONFIRMED' AND opened_at_latest < coalesce(closed_at_earliest, closed_at, now())
                THEN tstzrange(opened_at_latest, coalesce(closed_at_earliest, closed_at, now()))
                ELSE 'empty' END AS certain,
           least(first_evidence_at, opened_at) AS known_at
    FROM compliance_gap
    WHERE state IN ('OPEN', 'CLOSED') AND organization_id IS NOT NULL
),
organizations AS (
    SELECT organization_id, date_trunc('month', min(known_at) AT TIME ZONE 'UTC') AS first_month
    FROM (SELECT organization_id, known_at FROM gaps
          UNION ALL
          SELECT organization_id, coalesce(since, produced_at) FROM compliance_status
          WHERE organization_id IS NOT NULL) AS known
    GROUP BY organization_id
),
months AS (
    SELECT organization_id, month::date AS month,
           tstzrange(month AT TIME ZONE 'UTC', least((month + interval '1 month') AT TIME ZONE 'UTC', now())) AS span
    FROM organizations, generate_series(first_month, now() AT TIME ZONE 'UTC', interval '1 month') AS month
),
joined AS (
    SELECT organization_id, month, extract(epoch FROM upper(span) - lower(span)) AS seconds,
           coalesce(range_agg(possible * span), '{}') AS possible, coalesce(range_agg(certain * span), '{}') AS certain
    FROM months LEFT JOIN gaps USING (organization_id)
    GROUP BY organization_id, month, span
),
summed AS (
    SELECT organization_id, month, seconds,
           (SELECT coalesce(sum(extract(epoch FROM upper(each) - lower(each))), 0) FROM unnest(certain) AS each)
               AS certainly_off_seconds,
           (SELECT coalesce(sum(extract(epoch FROM upper(each) - lower(each))), 0) FROM unnest(possible) AS each)
               AS possibly_off_seconds
    FROM joined
)
SELECT organization_id, month, seconds, certainly_off_seconds, possibly_off_seconds,
       1 - certainly_off_seconds / nullif(seconds, 0) AS coverage_at_most,
       1 - possibly_off_seconds / nullif(seconds, 0) AS coverage_without_doubtful
FROM summed
ORDER BY organization_id, month;
