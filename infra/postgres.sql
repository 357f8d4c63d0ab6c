-- Two databases in one PostgreSQL; Prefect needs pg_trgm.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
