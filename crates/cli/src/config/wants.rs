//! The first table of docs/CONFIG.md: which keys to look at for what one wants, and when to leave them alone.

/// What one wants, the keys for it, and when they are best left at their defaults.
const WANTS: [(&str, &[&str], &str); 14] = [
    (
        "bound what the workers cost",
        &["scaling.max_workers", "scaling.worker_capacity"],
        "until `enginehouse scaling explain` says `ceiling` while the engines have room",
    ),
    (
        "have the first execution of the day start at once",
        &["scaling.min_workers"],
        "where a worker starts within the wait that you allow (`scaling.slo_wait`)",
    ),
    (
        "weigh waiting against workers",
        &["scaling.slo_wait", "scaling.late_cost"],
        "until `enginehouse simulate` on your own trace shows a gain",
    ),
    (
        "protect an engine",
        &["max_concurrency", "rate_limit"],
        "unless its operator names a limit: the breaker and the adaptive limit work without one",
    ),
    (
        "try again more often, or less",
        &["fault_tolerance.max_retries", "fault_tolerance.retry_delay", "retry.rules"],
        "until `enginehouse list --failure KIND` shows failures that another attempt would have mended",
    ),
    (
        "let urgent work go first",
        &[
            "queue.head_start.low",
            "queue.head_start.normal",
            "queue.head_start.high",
            "queue.head_start.critical",
        ],
        "unless work of one priority waits too long behind another: a request names its priority",
    ),
    (
        "give one user more than the others",
        &["queue.user_weights.NAME"],
        "while all users are to share evenly",
    ),
    (
        "limit what may wait",
        &["queue.depth_max", "queue.engine_depth_max", "queue.user_depth_max"],
        "unless one caller can fill the queue for all",
    ),
    (
        "limit how long things take",
        &["defaults.timeout", "defaults.total_timeout", "defaults.idle_timeout"],
        "where requests say it themselves",
    ),
    (
        "keep results longer, or less long",
        &["storage.result_retention_days", "storage.ended_max", "storage.max_mib"],
        "while `enginehouse storage` shows room",
    ),
    (
        "choose where the seal key lies",
        &["storage.seal_key_file", "storage.seal_key_env", "storage.seal_key_command"],
        "never in production: choose the place before the first start, and keep a copy elsewhere",
    ),
    (
        "open the service to a network",
        &["server.listen", "server.tls.cert_file", "server.tls.key_file"],
        "behind a proxy on the same machine",
    ),
    (
        "deploy without interrupting runs",
        &["stop.grace"],
        "where most runs are shorter than 30 s, or their engine lets a run be taken up again",
    ),
    (
        "run workers in processes of their own",
        &["workers.provider", "workers.max_memory_mib", "workers.max_executions"],
        "unless engines of the type `command` run programs that you do not trust with the service's memory",
    ),
];

/// The table in Markdown.
pub(super) fn table() -> String {
    let mut out = String::from(
        "## By what you want\n\nEvery key has a default that fits most services. Begin with none, and come back with a figure.\n\n\
         | you want to | keys | leave them alone |\n|---|---|---|\n",
    );
    for (want, keys, leave) in WANTS {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        out.push_str(&format!("| {want} | {} | {leave} |\n", keys.join(", ")));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_named_is_a_key() {
        let page = crate::config::markdown();
        for key in WANTS.iter().flat_map(|(_, keys, _)| *keys) {
            assert!(page.contains(&format!("\n| `{key}` |")), "{key} has no row of its own");
        }
    }
}
