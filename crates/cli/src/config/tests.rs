//! What is said of a configuration that makes no sense, and where each source counts, as tables.

use super::*;

/// Every fault of a TOML text, a line each; empty: it is fine.
fn faults(text: &str) -> String {
    let sources = Sources::new().text(text, Format::Toml, "t").expect("it parses");
    sources.load().err().map(|faults| faults.to_string()).unwrap_or_default()
}

#[test]
fn nonsense_is_refused_with_its_key_and_its_reason() {
    let types = "the types are n8n, langflow, langsmith, http, command, demo";
    let n8n = "[engines.e]\ntype = 'n8n'\nendpoints = [{ url = 'http://h' }]\n";
    let table = [
        ("[scalng]", "t: scalng: unknown key; did you mean scaling?".to_owned()),
        (
            "[scaling]\nmin_workers = 1\nminWorkers = 1",
            "t: scaling.min_workers: is there twice: min_workers in another spelling".to_owned(),
        ),
        ("stop = 3", "t: stop: must be a table with the keys grace, cancel_grace".to_owned()),
        ("[engines.e]\nurl = 'x'", format!("t: engines.e.type: is missing; {types}")),
        (
            "[engines.e]\ntype = 'langflo'",
            format!("t: engines.e.type: \"langflo\" is not an engine type; did you mean langflow?; {types}"),
        ),
        ("[engines.e]\ntype = 'demo'\nurl = 'x'", "t: engines.e.url: unknown key".to_owned()),
        ("engines = 3", "t: engines: must be a table of names".to_owned()),
        ("[engines.'-e']\ntype = 'demo'", "engines.-e: an engine's name is 1 to 64".to_owned()),
        ("[webhooks.callback]\nurl = 'https://h'", "webhooks.callback: is no name of a receiver".to_owned()),
        ("[metrics]\nretention_period = '30s'", "t: metrics.retention_period: must not be less".to_owned()),
        ("[queue.head_start]\nlow = '1h'", "queue.head_start: may not fall from low".to_owned()),
        ("[scaling.guards]\nmem_soft = 0.95", "t: scaling.guards.mem_soft: must be above 0".to_owned()),
        (
            "[workers]\nmax_idle_time = '2d'",
            "t: workers.max_idle_time: must not be longer than a day".to_owned(),
        ),
        (
            "[storage.retention_days_of_engine]\nx = 3",
            "t: storage.retention_days_of_engine.x: is not the name of a configured engine".to_owned(),
        ),
        ("[storage.blobs.options]\nregion = 'r'", "storage.blobs.options: are those of S3".to_owned()),
        (
            &format!("{n8n}proxy = 'http://u:p@h'"),
            "t: engines.e.proxy: holds a user or a password".to_owned(),
        ),
        (
            &format!("{n8n}retry.on = ['timout']"),
            "t: engines.e.retry.on: \"timout\" is not a failure kind; did you mean timeout?".to_owned(),
        ),
        (
            &format!("{n8n}headers = {{ Authorization = 'x' }}"),
            "t: engines.e.headers.Authorization: the value of Authorization looks like a secret".to_owned(),
        ),
    ];
    for (text, wanted) in table {
        let found = faults(text);
        assert!(
            found.lines().any(|line| line.starts_with(&wanted)),
            "{text}\nwanted {wanted}\nfound {found}"
        );
    }
    assert_eq!(faults(n8n), "");
}

#[test]
fn one_fault_hides_no_other() {
    let text = "
        [server]
        listen = 'nowhere'
        cors_origins = ['*']
        [tracing.exporters.a]
        api_key = { env = 'ENGINEHOUSE_TEST_OF_NO_VALUE' }
        headers = { Authorization = 'x', Cookie = 'y' }
        [engines.e]
        type = 'http'
        follow = {}
    ";
    let found = faults(text);
    for part in [
        "server.listen: ",
        "server.cors_origins: ",
        "tracing.exporters.a.api_key: ",
        "tracing.exporters.a.headers.Authorization: ",
        "tracing.exporters.a.headers.Cookie: ",
        "engines.e.endpoints: ",
        "engines.e.follow.done: ",
    ] {
        assert!(found.contains(part), "{part}\n{found}");
    }
}

#[test]
fn the_later_source_wins_and_an_engine_has_the_keys_of_its_last_type() {
    let file = "[stop]\ngrace = '1s'\ncancel_grace = '2s'\n[engines.a-b]\ntype = 'n8n'\n";
    let variables = [
        ("ENGINEHOUSE_STOP__CANCEL_GRACE", "3s"),
        ("ENGINEHOUSE_ENGINES__A_B__TYPE", "demo"),
        ("ENGINEHOUSE_ENGINES__A_B__ENDPOINT_COUNT", "3"),
    ];
    let sources = Sources::new()
        .text(file, Format::Toml, "t")
        .expect("it parses")
        .environment(variables.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())))
        .flag("--set", "stop.grace", Value::from("4s"));
    let config = sources.load().unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.settings.stop_grace, config.settings.cancel_grace), (4_000, 3_000));
    assert_eq!(config.engines.len(), 1);
    assert!(matches!(config.engines[0].adapter, AdapterConfig::Demo { endpoints: 3 }));
}
