CREATE TABLE execution (
    key            INTEGER PRIMARY KEY,
    rev            INTEGER NOT NULL,
    generation     INTEGER NOT NULL,
    status         INTEGER NOT NULL,
    priority       INTEGER NOT NULL,
    rank           INTEGER NOT NULL,
    due            INTEGER NOT NULL,
    retrying       INTEGER NOT NULL,
    lane           INTEGER,
    wake_at        INTEGER,
    ready_at       INTEGER NOT NULL,
    clock_from     INTEGER NOT NULL,
    started_at     INTEGER,
    run_started_at INTEGER,
    ended_at       INTEGER,
    endpoint       INTEGER,
    worker         TEXT,
    holder         INTEGER,
    fence          INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    reported       INTEGER NOT NULL,
    lost           INTEGER NOT NULL,
    node_crashes   INTEGER NOT NULL,
    refused        INTEGER NOT NULL,
    run            INTEGER NOT NULL,
    engine_run     TEXT,
    can_reattach   INTEGER NOT NULL,
    maybe_started  INTEGER NOT NULL,
    cancel_at      INTEGER,
    failure        TEXT,
    needs_input    INTEGER NOT NULL,
    output_bytes   INTEGER NOT NULL,
    ext_id         TEXT,
    idem_key       TEXT,
    request_hash   BLOB NOT NULL,
    engine         TEXT NOT NULL,
    engine_type    TEXT NOT NULL,
    workflow       TEXT NOT NULL,
    user           TEXT,
    ckey           TEXT,
    tags           TEXT,
    created_at     INTEGER NOT NULL,
    spec           TEXT NOT NULL,
    -- JSON events separated by a comma and a newline; '[' || history || ']' is a JSON array.
    history        TEXT NOT NULL
, abandoned INTEGER NOT NULL DEFAULT 0) STRICT;

CREATE UNIQUE INDEX by_ext_id ON execution (ext_id) WHERE ext_id IS NOT NULL;

CREATE UNIQUE INDEX by_idem_key ON execution (idem_key) WHERE idem_key IS NOT NULL;

CREATE INDEX ready ON execution (lane, rank) WHERE lane IS NOT NULL;

CREATE INDEX wake ON execution (wake_at) WHERE wake_at IS NOT NULL AND status = 0;

CREATE INDEX live ON execution (status) WHERE status < 2;

CREATE INDEX ended ON execution (status) WHERE status > 1;

CREATE INDEX by_engine ON execution (engine);

CREATE INDEX by_user ON execution (user) WHERE user IS NOT NULL;

CREATE INDEX by_workflow ON execution (workflow);

CREATE TABLE tag (
    tag TEXT NOT NULL,
    key INTEGER NOT NULL,
    PRIMARY KEY (tag, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE engine (
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (type, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE lane (
    id     INTEGER PRIMARY KEY,
    engine TEXT NOT NULL,
    user   TEXT,
    ckey   TEXT,
    retry  INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX lane_name ON lane (engine, ifnull(user, x''), ifnull(ckey, x''), retry);

CREATE TABLE input (key INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE output (key INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE logs (key INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE session (
    id           INTEGER PRIMARY KEY,
    node         INTEGER NOT NULL,
    worker       TEXT NOT NULL,
    capacity     INTEGER NOT NULL,
    engine_types TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    lease_until  INTEGER,
    draining     INTEGER NOT NULL
) STRICT;

CREATE TABLE role (
    name  TEXT PRIMARY KEY,
    node  INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE doc (
    kind TEXT NOT NULL,
    id   TEXT NOT NULL,
    rev  INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE store (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    cursor     INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    feed_bytes INTEGER NOT NULL,
    totals     TEXT NOT NULL
) STRICT;

CREATE TABLE feed (
    seq  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    -- JSON as it is, or as a frame of zstd, which begins otherwise.
    body BLOB NOT NULL
) STRICT;
