-- Iceberg's catalog in PostgreSQL. Apply it before the connectors, as the sink's own user; safe to repeat:
--   psql -v ON_ERROR_STOP=1 -1 -f catalog.sql
--
-- Iceberg would make these tables and the namespace itself, but two sinks that start at once get into each other's way
-- with it.

CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name varchar(255) NOT NULL,
    table_namespace varchar(255) NOT NULL,
    table_name varchar(255) NOT NULL,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name)
);

CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name varchar(255) NOT NULL,
    namespace varchar(255) NOT NULL,
    property_key varchar(255) NOT NULL,
    property_value varchar(1000),
    PRIMARY KEY (catalog_name, namespace, property_key)
);

INSERT INTO iceberg_namespace_properties (catalog_name, namespace, property_key, property_value)
VALUES ('auditgap', 'compliance', 'exists', 'true')
ON CONFLICT DO NOTHING;
