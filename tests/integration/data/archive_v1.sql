CREATE TABLE logos_schema (version integer NOT NULL);
INSERT INTO logos_schema VALUES (1);
CREATE TABLE logos_message (
    timestamp bigint NOT NULL,
    hash bytea NOT NULL,
    topic_key bigint NOT NULL,
    pubsub_topic bytea NOT NULL,
    content_topic bytea NOT NULL,
    data bytea NOT NULL,
    size integer NOT NULL
);
ALTER TABLE logos_message ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX logos_message_by_hash ON logos_message (hash) INCLUDE (timestamp, size);
CREATE INDEX logos_message_by_pubsub_topic ON logos_message (pubsub_topic, timestamp, hash);
CREATE INDEX logos_message_by_topics ON logos_message (topic_key, timestamp, hash);
CREATE TABLE logos_removal (holder uuid, until timestamptz NOT NULL);
INSERT INTO logos_removal VALUES (NULL, '-infinity');
