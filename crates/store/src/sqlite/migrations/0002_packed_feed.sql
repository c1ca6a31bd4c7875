ALTER TABLE feed RENAME TO old_feed;
CREATE TABLE feed (
    seq  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    -- JSON as it is, or as a frame of zstd, which begins otherwise.
    body BLOB NOT NULL
) STRICT;
INSERT INTO feed (seq, at, body) SELECT seq, at, CAST(body AS BLOB) FROM old_feed;
DROP TABLE old_feed;
