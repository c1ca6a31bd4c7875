//! Finding the service: by its URL, or as the one that works on a data directory.
//!
//! A data directory that was named, itself or by a configuration, means its own service and no other. Whether that is the one
//! that answers is found out by a challenge before anything else is sent (`GET /identity`): an address stays behind when
//! a service is killed, and another may have the port by now.

use super::{DEFAULT_DATA_DIR, Exit, Failure};
use clap::Args;
use enginehouse::directory::{self, Address};
use enginehouse::plain_text;
use enginehouse_api::client::{Client, ClientError, ClientOptions};
use enginehouse_server::Identity;
use std::path::{Path, PathBuf};

const DEFAULT_URL: &str = "http://127.0.0.1:7070";
/// The largest key or certificate file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the service is, and how to be let in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Base URL of the service [default: the service of --data, of ENGINEHOUSE_CONFIG or of ./data; else http://127.0.0.1:7070]
    #[arg(long, global = true, env = "ENGINEHOUSE_URL", value_name = "URL")]
    url: Option<String>,
    /// File with the API key [default: $ENGINEHOUSE_API_KEY, else DIR/admin.key for the service of DIR]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// PEM file with certificates to trust besides those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON: one document, or one value a line
    #[arg(long, global = true, help_heading = None)]
    pub(crate) json: bool,
    /// How the URL was said.
    #[arg(skip)]
    pub(crate) url_said: Said,
}

/// How something was said; the louder wins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// No one said it: it is a default.
    #[default]
    Nobody,
    Environment,
    Flag,
}

/// The data directory that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) said: Said,
}

impl DataDir {
    /// The one in the working directory.
    pub(crate) fn unnamed() -> DataDir {
        DataDir { path: PathBuf::from(DEFAULT_DATA_DIR), said: Said::Nobody }
    }

    /// Absolute where that can be found out, for messages.
    fn shown(&self) -> String {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string()
    }
}

/// What a command is to call.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// The service at a URL; `of`: which has to be the one of the data directory.
    Url { url: String, of_directory: bool },
    /// The service of the data directory, wherever it is.
    Directory,
}

impl Connection {
    /// Whether the URL is said louder than the data directory, which then need not be known.
    pub(crate) fn url_wins_over(&self, said: Said) -> bool {
        self.url.is_some() && self.url_said > said
    }

    /// A client of the service that is meant.
    ///
    /// # Errors
    /// When that service does not run, or another one answers in its place; nothing but a challenge was sent then.
    pub(crate) async fn client(&self, dir: &DataDir) -> Result<Client, Failure> {
        match self.target(dir) {
            Target::Directory => self.of_directory(dir).await,
            Target::Url { url, of_directory: true } => {
                let known =
                    address(dir)?.ok_or_else(|| not_running(dir, &format!("so it is not at {url}")))?;
                self.prove(dir, &url, &known).await?;
                self.built(url, Some(dir))
            }
            Target::Url { url, of_directory: false } => {
                let open = self.given_key()?.is_none() && is_this_machine(&url);
                let own = match (open, address(dir)) {
                    (true, Ok(Some(known))) => self.prove(dir, &url, &known).await.is_ok(),
                    _ => false,
                };
                self.built(url, own.then_some(dir))
            }
        }
    }

    fn target(&self, dir: &DataDir) -> Target {
        match &self.url {
            Some(url) if self.url_said > dir.said => Target::Url { url: url.clone(), of_directory: false },
            Some(url) if self.url_said == dir.said => Target::Url { url: url.clone(), of_directory: true },
            None if dir.said == Said::Nobody && !directory::is_data_directory(&dir.path) => {
                Target::Url { url: DEFAULT_URL.to_owned(), of_directory: false }
            }
            _ => Target::Directory,
        }
    }

    async fn of_directory(&self, dir: &DataDir) -> Result<Client, Failure> {
        if !dir.path.is_dir() {
            return Err(not_running(dir, "there is no such directory"));
        }
        let known = address(dir)?.ok_or_else(|| not_running(dir, "it tells no address"))?;
        self.prove(dir, &known.url, &known).await?;
        self.built(known.url, Some(dir))
    }

    /// Makes sure that it is the service of the directory that answers at the URL.
    async fn prove(&self, dir: &DataDir, url: &str, known: &Address) -> Result<(), Failure> {
        let random = || Failure::call("the system gives no random bytes".to_owned());
        let challenge = Identity::challenge().ok_or_else(random)?;
        let stranger = Client::new(self.options(url)?)?;
        let what = match stranger.identity(&challenge).await {
            Ok(answer) => {
                let proof = answer.proof.unwrap_or_default();
                let shown = Identity::of(&known.secret).is_some_and(|own| own.is_proof(&challenge, &proof));
                if shown {
                    return Ok(());
                }
                format!("another service answers at {url}")
            }
            Err(ClientError::Unreachable { reason, .. }) => format!("nothing answers at {url}: {reason}"),
            Err(ClientError::Lost { reason, .. }) => format!("what is at {url} does not answer: {reason}"),
            Err(ClientError::Invalid(text)) => return Err(Failure::usage(text)),
            Err(_) => format!("what answers at {url} is something else"),
        };
        Err(not_running(dir, &what))
    }

    fn options(&self, url: &str) -> Result<ClientOptions, Failure> {
        let mut options = ClientOptions::new(url);
        if let Some(path) = &self.ca_file {
            options.ca_pem = Some(read(path)?.into_bytes());
        }
        Ok(options)
    }

    /// A client with the key that was given, else with the admin key of a directory whose service it is.
    fn built(&self, url: String, own: Option<&DataDir>) -> Result<Client, Failure> {
        let mut options = self.options(&url)?;
        options.api_key = self.given_key()?;
        let admin = own.map(|dir| dir.path.join(directory::ADMIN_KEY)).filter(|path| path.exists());
        if let (None, Some(path)) = (&options.api_key, admin) {
            options.api_key = Some(read(&path)?.trim().to_owned());
        }
        Ok(Client::new(options)?)
    }

    /// How a worker reaches a node: with the key of `--key-file`, if one is named, and no other.
    pub(crate) fn worker_options(&self, url: &str) -> Result<ClientOptions, Failure> {
        let mut options = self.options(url)?;
        if let Some(path) = &self.key_file {
            options.api_key = Some(read(path)?.trim().to_owned());
        }
        Ok(options)
    }

    fn given_key(&self) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(Some(read(path)?.trim().to_owned()));
        }
        let key = std::env::var("ENGINEHOUSE_API_KEY").unwrap_or_default();
        Ok(Some(key.trim().to_owned()).filter(|key| !key.is_empty()))
    }
}

fn address(dir: &DataDir) -> Result<Option<Address>, Failure> {
    directory::read_address(&dir.path)
        .map_err(|error| Failure::usage(format!("the address in {}: {error}", dir.shown())))
}

fn not_running(dir: &DataDir, why: &str) -> Failure {
    let place = dir.shown();
    let otherwise = match dir.said {
        Said::Nobody => "\nFor a service elsewhere, name it with --url.",
        _ => "",
    };
    let message = format!(
        "the service of {place} does not run ({why})\nStart it with: enginehouse serve --data {place}{otherwise}"
    );
    Failure { exit: Exit::Unreachable, message, code: None }
}

fn is_this_machine(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    // A bracketed IPv6 address holds colons of its own.
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A small text file; the error names it.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let size = std::fs::metadata(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{}: larger than {FILE_BYTES_MAX} bytes", path.display())));
    }
    let bytes =
        std::fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    plain_text::decode(bytes).map_err(|why| Failure::usage(format!("{} {why}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_louder_word_names_the_service() {
        let empty = tempfile::tempdir().unwrap();
        let used = tempfile::tempdir().unwrap();
        std::fs::write(used.path().join("enginehouse.sqlite"), "").unwrap();
        use Said::{Environment, Flag, Nobody};
        let url = |of_directory| Target::Url { url: "http://u".to_owned(), of_directory };
        let default = Target::Url { url: DEFAULT_URL.to_owned(), of_directory: false };
        for (url_said, dir, said, wanted) in [
            (Nobody, &empty, Nobody, default),
            (Nobody, &used, Nobody, Target::Directory),
            (Nobody, &empty, Environment, Target::Directory),
            (Nobody, &empty, Flag, Target::Directory),
            (Environment, &used, Nobody, url(false)),
            (Environment, &used, Environment, url(true)),
            (Environment, &used, Flag, Target::Directory),
            (Flag, &used, Nobody, url(false)),
            (Flag, &used, Environment, url(false)),
            (Flag, &used, Flag, url(true)),
        ] {
            let connection = Connection {
                url: (url_said != Nobody).then(|| "http://u".to_owned()),
                key_file: None,
                ca_file: None,
                json: false,
                url_said,
            };
            let dir = DataDir { path: dir.path().to_owned(), said };
            assert_eq!(connection.target(&dir), wanted, "{url_said:?} {dir:?}");
        }
    }

    #[test]
    fn this_machine_is_told_from_others() {
        for url in
            ["http://127.0.0.1:7070", "http://localhost", "https://[::1]:7070/base", "http://127.3.2.1/"]
        {
            assert!(is_this_machine(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:7070",
            "http://localhost.example.test",
            "http://[2001:db8::1]:7070",
            "https://127.0.0.1.example.test",
        ] {
            assert!(!is_this_machine(url), "{url}");
        }
    }
}
