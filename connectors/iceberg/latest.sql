-- The latest revision of each gap. The sink appends every revision, and after a crash perhaps one twice.
-- Times are microseconds since the epoch: timestamp_micros(opened_at) in Spark,
-- from_unixtime_nanos(opened_at * 1000) in Trino, make_timestamptz(opened_at) in DuckDB.
SELECT *
FROM (
    SELECT *, row_number() OVER (PARTITION BY gap_id ORDER BY revision DESC) AS age
    FROM compliance.gap_history
) AS revisions
WHERE age = 1
