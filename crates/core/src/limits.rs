//! The bounds that callers meet and that several crates share, related to each other by assertions that hold at compile time. Others
//! stand beside what they bound.

use crate::time::{DAY, HOUR, MINUTE, Millis, SECOND};

/// A request body over HTTP unless configured otherwise, and the most that can be configured.
pub const REQUEST_BODY_BYTES_MAX: usize = 4 << 20;
pub const REQUEST_BODY_MIB_MAX: usize = 64;
/// How much of requests above the usual size is held at once.
pub const LARGE_REQUESTS_MIB_MAX: usize = 512;
/// A request as it is stored: escapes may make it longer than its body was. It may have come under another configuration.
pub const STORED_REQUEST_BYTES_MAX: usize = 2 * (REQUEST_BODY_MIB_MAX << 20);
/// Nesting of JSON in a request and in an engine's answer.
pub const JSON_DEPTH_MAX: usize = 64;
/// The result of one execution.
pub const RESULT_BYTES_MAX: usize = 64 << 20;
/// A result of more bytes lies in a blob unless configured otherwise.
pub const RESULT_INLINE_BYTES: usize = 256 << 10;
/// A blob that no execution tells of is removed at this age unless configured otherwise.
pub const BLOB_ORPHAN_AFTER: Millis = HOUR;
/// Results kept in memory unless configured otherwise.
pub const RESULT_CACHE_BYTES: usize = 16 << 20;
/// The text of a failure, cut at this size.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 8 << 10;
/// The logs kept of one execution, the newest win.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// Executions in one batch submit.
pub const BATCH_EXECUTIONS_MAX: usize = 1_000;
/// Executions one bulk call may match.
pub const BULK_EXECUTIONS_MAX: usize = 10_000;
/// Transitions a bulk call sends to the store at a time.
pub const BULK_SLICE: usize = 1_000;
/// Rows of one list page.
pub const LIST_LIMIT_MAX: usize = 1_000;
pub const LIST_LIMIT_DEFAULT: usize = 50;
pub const TAGS_MAX: usize = 32;
pub const TAG_CHARS_MAX: usize = 64;
/// Names in a request: workflow, user, concurrency key, session, idempotency key.
pub const NAME_BYTES_MAX: usize = 256;
/// The engine's own run id.
pub const ENGINE_RUN_BYTES_MAX: usize = 1_024;
/// Durable events kept one by one in a row; older ones are folded.
pub const HISTORY_EVENTS_MAX: usize = 256;
pub const MAX_RETRIES_MAX: u32 = 1_000;

/// Writes and bytes at which the committer stops gathering. The last request may go beyond them, and as many grants come on top.
pub const COMMIT_WRITES_MAX: usize = 1_024;
pub const COMMIT_BYTES_MAX: usize = 8 << 20;
/// Writes that may wait for the committer before callers wait too.
pub const COMMITTER_QUEUE_MAX: usize = 4_096;
/// Rows of the ready queue held in memory, and of one lane; the rest stays in the store and is only counted.
pub const READY_ROWS_MAX: usize = 200_000;
pub const READY_LANE_WINDOW: usize = 4_096;
pub const READY_REFILL: usize = 2_048;
/// Live items (progress, tokens) kept per running attempt.
pub const LIVE_ITEMS_MAX: usize = 256;
pub const LIVE_BYTES_MAX: usize = 256 << 10;

pub const LEASE_TTL: Millis = 30 * SECOND;
pub const LEASE_RENEW_EVERY: Millis = 10 * SECOND;
pub const REAP_EVERY: Millis = SECOND;
pub const SCHEDULER_TTL: Millis = 5 * SECOND;
/// Workers that may die under one execution before it counts as poison.
pub const LOST_MAX: u32 = 3;
/// Deaths of its node, or of workers that someone killed, before an execution counts as poison, and from which on it waits before the next try.
pub const NODE_CRASHES_MAX: u32 = 10;
pub const NODE_CRASHES_BACKOFF_FROM: u32 = 3;
pub const DEFAULT_TIMEOUT: Millis = HOUR;
pub const DEFAULT_TOTAL_TIMEOUT: Millis = 7 * DAY;
/// The longest span a request may name.
pub const SPAN_MAX: Millis = 366 * DAY;
pub const RETRY_AFTER_MAX: Millis = HOUR;
pub const RETRY_CEILING: Millis = MINUTE;
/// Ended runs of one engine from which the auto-scaler learns at a time.
pub const TRAFFIC_ENDS_MAX: usize = 4_096;
/// Changes of the number of workers that are kept.
pub const DECISIONS_MAX: usize = 1_000;
/// Scheduled executions that are counted as coming due soon.
pub const DUE_SOON_MAX: usize = 512;
/// Silence after which a worker elsewhere gets nothing new; it is ended after [`LEASE_TTL`].
pub const WORKER_SILENCE_MAX: Millis = 15 * SECOND;
/// Workers that the auto-scaler may have, and that may be configured; slots of one worker.
pub const SCALED_WORKERS_MAX: u32 = 1_024;
pub const WORKER_CAPACITY_MAX: u32 = 1_000;
/// Workers of one node of every kind, those from elsewhere included.
pub const WORKER_PORTS_MAX: usize = 4_096;
/// Sessions of the worker protocol that are kept, those that have ended included.
pub const WORKER_SESSIONS_REMEMBERED: usize = 2 * WORKER_PORTS_MAX;
/// The longest wait of a worker's pull, and what one answer to it carries at most.
pub const WORKER_PULL_WAIT_MAX: Millis = 20 * SECOND;
pub const WORKER_PULL_ORDERS_MAX: usize = 64;
pub const WORKER_PULL_BYTES_MAX: usize = 8 << 20;
/// Signs of life in one call, and a fact that an adapter keeps.
pub const WORKER_PROGRESS_ITEMS_MAX: usize = 256;
pub const WORKER_FACT_BYTES_MAX: usize = 16_000;
/// A worker's report: the largest result with the logs of its attempt, and how much of such bodies is held at once.
pub const WORKER_REPORT_BYTES_MAX: usize = RESULT_BYTES_MAX + (4 << 20);
pub const WORKER_REPORTS_MIB_MAX: usize = 512;
/// What a report nests around a result.
pub const WORKER_REPORT_DEPTH: usize = 2;
/// The line on which a worker process is told everything.
pub const WORKER_BRIEFING_BYTES_MAX: usize = 16 << 20;
/// The least time a worker has to come up, and the wait before the next launch after one that failed: doubled each time.
pub const LAUNCH_PATIENCE_MIN: Millis = 10 * SECOND;
pub const LAUNCH_BACKOFF_MIN: Millis = SECOND;
pub const LAUNCH_BACKOFF_MAX: Millis = MINUTE;
/// How long an engine may take to stop a cancelled run before the worker abandons the call.
pub const CANCEL_GRACE: Millis = 10 * SECOND;
/// How long an engine that says it is overloaded, without saying for how long, gets nothing new; and the longest such wait
/// for the whole engine (a single execution waits for what it was told, up to [`RETRY_AFTER_MAX`]).
pub const ENGINE_FREEZE_DEFAULT: Millis = SECOND;
pub const ENGINE_FREEZE_MAX: Millis = 5 * MINUTE;
pub const STOP_GRACE: Millis = 30 * SECOND;
/// The longest `?wait=` of a submit.
pub const SUBMIT_WAIT_MAX: Millis = 5 * MINUTE;

/// Seal keys at the place they come from, the text that holds them, and how long a command may take to tell them.
pub const SEAL_KEYS_MAX: usize = 16;
pub const SEAL_KEY_BYTES_MAX: u64 = 64 << 10;
pub const SEAL_KEY_COMMAND_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// TCP connections open at once; further ones are closed as soon as they are accepted.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Streams of one HTTP/2 connection.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Event streams open at once.
pub const EVENT_STREAMS_MAX: usize = 4_096;
/// Path and query of a request.
pub const REQUEST_TARGET_BYTES_MAX: usize = 8 << 10;
/// Request line and headers together, and how many headers.
pub const REQUEST_HEAD_BYTES_MAX: usize = 64 << 10;
pub const REQUEST_HEADERS_MAX: usize = 64;
/// What is still read of a body that is too large, so that its sender hears the answer.
pub const DISCARDED_BODY_BYTES_MAX: usize = 64 << 20;
/// Web pages whose origin may call the service.
pub const CORS_ORIGINS_MAX: usize = 64;
/// Characters of an `Idempotency-Key` (another Enginehouse sends `{id}.{run}`, percent-encoded), a request id given by the client,
/// and an API key's secret.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 1_024;
pub const REQUEST_ID_CHARS_MAX: usize = 128;
pub const SECRET_CHARS_MAX: usize = 512;
/// API keys whose caller is remembered, and for how long a deleted one may still be honoured by another node.
pub const CALLERS_REMEMBERED_MAX: usize = 1_024;
pub const CALLER_REMEMBERED_FOR: Millis = 2 * SECOND;
/// Between two comments that keep a silent event stream alive.
pub const EVENT_BEAT: Millis = 15 * SECOND;

const _: () = assert!(LEASE_RENEW_EVERY * 2 < LEASE_TTL, "a lease survives one lost renewal");
const _: () = assert!(LEASE_RENEW_EVERY < WORKER_SILENCE_MAX && WORKER_SILENCE_MAX < LEASE_TTL);
const _: () = assert!(
    WORKER_PULL_WAIT_MAX < LEASE_TTL && LOG_BYTES_MAX * 6 < WORKER_REPORT_BYTES_MAX - RESULT_BYTES_MAX
);
const _: () = assert!(REQUEST_BODY_BYTES_MAX <= COMMIT_BYTES_MAX, "a usual request fits a commit");
const _: () = assert!(
    (REQUEST_BODY_MIB_MAX << 20) <= DISCARDED_BODY_BYTES_MAX && REQUEST_BODY_MIB_MAX < LARGE_REQUESTS_MIB_MAX
);
const _: () = assert!(BATCH_EXECUTIONS_MAX <= COMMIT_WRITES_MAX, "the largest batch fits one commit");
const _: () = assert!(READY_REFILL < READY_LANE_WINDOW && READY_LANE_WINDOW < READY_ROWS_MAX);
const _: () = assert!(
    3 * crate::id::ExecutionId::BYTES_MAX + 11 <= IDEMPOTENCY_KEY_CHARS_MAX,
    "the key of any id is taken"
);
const _: () = assert!(NODE_CRASHES_BACKOFF_FROM < NODE_CRASHES_MAX);
const _: () = assert!(
    REQUEST_TARGET_BYTES_MAX < REQUEST_HEAD_BYTES_MAX,
    "a target that is too long is answered, not cut"
);
