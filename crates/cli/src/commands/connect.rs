//! Finding the service: by flag, by environment, or as the one on this machine that works on a data directory.

use super::Failure;
use clap::Args;
use enginehouse::directory;
use enginehouse_api::client::{Client, ClientOptions};
use std::path::{Path, PathBuf};

const DEFAULT_URL: &str = "http://127.0.0.1:7070";
/// The largest key or certificate file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the service is, and how to be let in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Base URL of the service [default: the service of --data, else http://127.0.0.1:7070]
    #[arg(long, global = true, env = "ENGINEHOUSE_URL", value_name = "URL")]
    url: Option<String>,
    /// File with the API key [default: $ENGINEHOUSE_API_KEY, else DIR/admin.key for a service on this machine]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// PEM file with certificates to trust besides those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON: one document, or one value a line
    #[arg(long, global = true, help_heading = None)]
    pub(crate) json: bool,
}

impl Connection {
    /// A client; nothing is sent yet.
    pub(crate) fn client(&self, data_dir: &Path) -> Result<Client, Failure> {
        let local = directory::read_address(data_dir);
        let url = match (&self.url, local) {
            (Some(url), _) => url.clone(),
            (None, Some(url)) => url,
            (None, None) => DEFAULT_URL.to_owned(),
        };
        let mut options = ClientOptions::new(url);
        options.api_key = self.api_key(&options.url, data_dir)?;
        if let Some(path) = &self.ca_file {
            options.ca_pem = Some(read(path)?.into_bytes());
        }
        Ok(Client::new(options)?)
    }

    /// How a worker reaches a node: with the key of `--key-file`, if one is named, and no other.
    pub(crate) fn worker_options(&self, url: &str) -> Result<ClientOptions, Failure> {
        let mut options = ClientOptions::new(url);
        if let Some(path) = &self.key_file {
            options.api_key = Some(read(path)?.trim().to_owned());
        }
        if let Some(path) = &self.ca_file {
            options.ca_pem = Some(read(path)?.into_bytes());
        }
        Ok(options)
    }

    fn api_key(&self, url: &str, data_dir: &Path) -> Result<Option<String>, Failure> {
        if let Some(path) = &self.key_file {
            return Ok(Some(read(path)?.trim().to_owned()));
        }
        match std::env::var("ENGINEHOUSE_API_KEY") {
            Ok(key) if !key.trim().is_empty() => return Ok(Some(key.trim().to_owned())),
            _ => {}
        }
        // The admin key of this machine's service is not for another machine's eyes.
        let path = data_dir.join(directory::ADMIN_KEY);
        if is_this_machine(url) && path.exists() {
            return Ok(Some(read(&path)?.trim().to_owned()));
        }
        Ok(None)
    }
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
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

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
