//! Routes as written → HTTP routes: address, credentials, headers, batches.

use std::time::Duration;

use super::connection::{host_name, port_number};
use super::publish::{is_loopback, tls};
use super::secret::secret;
use super::written::Publish;
use crate::document::codes;
use crate::document::read::At;
use crate::document::scalar::shortened;
use crate::document::types::Text;
use crate::model::diagnostic::Diagnostics;
use crate::northbound::http::config::{Auth, HttpConfig};
use crate::northbound::http::is_header;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Compiles an HTTP route. `tightest` is the smallest budget of the devices whose values it carries. `None` is reported.
pub fn compile(written: &Publish, tightest: Option<Duration>, found: &mut Diagnostics) -> Option<HttpConfig> {
    let before = found.errors();
    let server = written.http.as_ref().and_then(|at| server(at, found));
    let auth = auth(written, found);
    let max_batch = written.max_batch.as_ref().map_or(1, |at| at.0 as usize);
    let headers = headers(written, max_batch, found);
    let linger = written.linger.as_ref().map_or(Duration::ZERO, |at| at.0);
    if let (Some(at), Some(budget)) = (&written.linger, tightest.filter(|budget| linger >= *budget)) {
        let message = format!(
            "a request would wait {linger:?} for more messages, and a device has a budget of {budget:?}"
        );
        let finding = found.warning(codes::LONG_LINGER, &at.span, message);
        finding.help("it waits no longer than that budget allows; make it shorter, or the budget longer");
    }
    if let Some(at) = written.linger.as_ref().filter(|_| max_batch == 1 && !linger.is_zero()) {
        found
            .error(codes::BAD_ROUTE, &at.span, "'linger' waits for more messages, and a request carries one")
            .help("add max_batch, such as max_batch: 100");
    }
    let server = server?;
    let tls = tls(written, server.tls, found);
    if !server.tls && !is_loopback(&server.host) {
        for at in [&written.bearer, &written.password].into_iter().flatten() {
            let message = format!("this travels unencrypted to {}", server.host);
            found.warning(codes::CLEAR_PASSWORD, &at.span, message).help("use https://");
        }
    }
    let config = HttpConfig {
        url: server.url,
        host: server.host,
        tls,
        auth: auth?,
        headers: headers?,
        max_batch,
        linger,
        gzip_above: written.gzip.as_ref().map(|at| at.value.0 as usize),
        timeout: written.timeout.as_ref().map_or(DEFAULT_TIMEOUT, |at| at.0),
        statuses: written.statuses.as_ref().is_some_and(|flag| flag.0),
        // Dealt out when all routes are known.
        backlog_bytes: 0,
    };
    (found.errors() == before && !written.faulty).then_some(config)
}

struct Server {
    url: String,
    tls: bool,
    host: String,
}

fn server(at: &At<Text>, found: &mut Diagnostics) -> Option<Server> {
    const EXAMPLES: &str = "such as https://api.example/v1/measurements";
    let url = &at.value.0;
    let mut refuse = |message: String, help: &str| {
        found.error(codes::BAD_URL, &at.span, message).help(help);
        None
    };
    let (tls, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => {
            return refuse(format!("'{}' does not begin with https:// or http://", shortened(url)), EXAMPLES);
        }
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        // Not shown: it may hold a password.
        return refuse(
            "user and password are no part of the address".into(),
            "use the keys user and password, or bearer",
        );
    }
    let ends_in_host = authority.ends_with(']') || !authority.contains(':');
    let parts = if ends_in_host {
        Some((authority, None))
    } else {
        authority.rsplit_once(':').map(|(h, p)| (h, Some(p)))
    };
    let host = parts.and_then(|(host, port)| {
        let host = host_name(host)?;
        port.is_none_or(|port| port_number(port).is_some()).then_some(host)
    });
    // RFC 3986, section 2: anything else is to be in percent notation.
    let plain = url.bytes().all(|byte| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    });
    match host.filter(|_| plain && !url.contains('#')) {
        Some(host) => Some(Server { url: url.clone(), tls, host }),
        None => refuse(format!("'{}' is no address of a server", shortened(url)), EXAMPLES),
    }
}

fn auth(written: &Publish, found: &mut Diagnostics) -> Option<Auth> {
    if let (Some(bearer), Some(user)) = (&written.bearer, &written.user) {
        found
            .error(codes::BAD_ROUTE, &user.span, "a user and a bearer token")
            .help("a request has one Authorization: keep one of them");
        let _ = bearer;
        return None;
    }
    if let Some(at) = &written.bearer {
        return secret(at, "token", found).map(Auth::Bearer);
    }
    match (&written.user, &written.password) {
        (None, None) => Some(Auth::None),
        (Some(user), Some(password)) => {
            Some(Auth::Basic(user.value.0.clone(), secret(password, "password", found)?))
        }
        (Some(at), None) => {
            found.error(codes::MISSING_KEY, &at.span, "'user' needs the key 'password'");
            None
        }
        (None, Some(at)) => {
            found.error(codes::MISSING_KEY, &at.span, "'password' needs the key 'user'");
            None
        }
    }
}

fn headers(written: &Publish, max_batch: usize, found: &mut Diagnostics) -> Option<Vec<(String, String)>> {
    let before = found.errors();
    let mut all = Vec::new();
    for (name, value) in written.headers.iter().flat_map(|at| &at.value.0) {
        if !is_header(&name.value) {
            let message = format!("'{}' is no header that a route may add", shortened(&name.value));
            found
                .error(codes::BAD_HEADER, &name.span, message)
                .help("such as X-Line; the gateway's own are not among them");
            continue;
        }
        let text = &value.value.0;
        let rest = text.replace("{site}", "").replace("{device}", "");
        if rest.contains(['{', '}']) || !rest.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let message = format!("'{}' is nothing that a header can carry", shortened(text));
            found.error(codes::BAD_HEADER, &value.span, message).help("plain ASCII, {site} and {device}");
        } else if text.contains("{device}") && max_batch > 1 {
            let message = "a request with several messages may be of several devices";
            found.error(codes::BAD_HEADER, &value.span, message).help("remove {device}, or max_batch");
        }
        all.push((name.value.clone(), text.clone()));
    }
    (found.errors() == before).then_some(all)
}
