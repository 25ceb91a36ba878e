//! Where a node's sockets are.

use std::path::{absolute, Path};

use crate::error::{Error, Result};

/// Bytes that a `sockaddr_un` has for a path, without its NUL.
const MAX_SOCKET_PATH: usize = 107;

/// `place` of a node's run directory, or the endpoint itself.
pub(crate) fn endpoint(node: &str, place: &str) -> Result<String> {
    if node.is_empty() {
        return Err(Error::bad("an endpoint is ipc://…, tcp://… or a node's run directory"));
    }
    if let Some((scheme, _)) = node.split_once("://") {
        if scheme != "ipc" && scheme != "tcp" {
            return Err(Error::bad(format!("{node}: an endpoint is ipc://…, tcp://… or a node's run directory")));
        }
    }
    let found = if node.contains("://") {
        node.to_owned()
    } else {
        let directory = absolute(Path::new(node)).map_err(|error| Error::bad(format!("{node}: {error}")))?;
        format!("ipc://{}", directory.join(place).display())
    };
    match found.strip_prefix("ipc://") {
        Some(path) if path.len() > MAX_SOCKET_PATH => {
            Err(Error::bad(format!("socket path {path} has more than {MAX_SOCKET_PATH} bytes: use a shorter one")))
        }
        _ => Ok(found),
    }
}

/// A name of an app or consumer: `[a-z0-9._-]{1,64}`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::bad(format!("name: 1 to 64 of a-z, 0-9, \".\", \"_\" and \"-\", not {name:?}")))
}
