//! The agent's HTTP: three small pages, for GET and HEAD, one request a connection. Bounded in time, size and
//! number of connections, so that nobody who reaches the port can make the agent grow.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::Host;
use super::stream::{SocketFile, Stream, listen_unix, read_some, write_all};

/// A request's head at most.
const MAX_HEAD: usize = 8 << 10;
/// Connections at the same time; more are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// Of the unix socket.
const MODE: u32 = 0o660;
/// For a whole request to arrive, and for a whole answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

impl Page {
    fn plain(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n") }
    }
}

/// What is at a path; `None`: nothing.
pub type Pages = dyn Fn(&str) -> Option<Page> + Send + Sync;

/// Serves until the process ends. The threads sleep unless somebody asks.
#[derive(Debug)]
pub struct Server {
    /// Where it really listens: port 0 has become another.
    pub address: Option<SocketAddr>,
    _file: Option<SocketFile>,
}

impl Server {
    /// # Errors
    /// When it cannot listen; with the address.
    pub fn start(
        address: Option<SocketAddr>,
        socket: Option<&Path>,
        pages: Arc<Pages>,
    ) -> Result<Self, String> {
        let host = Host::new("netdiag-http", MAX_CONNECTIONS);
        let (mut bound, mut file) = (None, None);
        if let Some(address) = address {
            let failed = |error: io::Error| format!("cannot listen on {address}: {error}");
            let listener = TcpListener::bind(address).map_err(failed)?;
            bound = Some(listener.local_addr().map_err(failed)?);
            let pages = Arc::clone(&pages);
            host.serve(
                move || listener.accept().map(|(stream, _)| stream),
                move |stream| answer(stream, &*pages),
            )?;
        }
        if let Some(path) = socket {
            let failed = |error: io::Error| format!("cannot listen on {}: {error}", path.display());
            let (listener, its_file) = listen_unix(path, MODE).map_err(failed)?;
            file = Some(its_file);
            host.serve(
                move || listener.accept().map(|(stream, _)| stream),
                move |stream| answer(stream, &*pages),
            )?;
        }
        Ok(Self { address: bound, _file: file })
    }
}

fn answer(mut stream: impl Stream, pages: &Pages) -> io::Result<()> {
    let (page, head_only) = match read_request(&mut stream)? {
        Request::Get { path, head_only } => (
            pages(&path).unwrap_or_else(|| Page::plain(404, "there is /metrics, /healthz and /readyz")),
            head_only,
        ),
        Request::OtherMethod => (Page::plain(405, "GET and HEAD only"), false),
        Request::Nonsense => (Page::plain(400, "this is no HTTP request"), false),
        Request::None => return Ok(()),
    };
    let reason = match page.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let Page { status, content_type, body } = &page;
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: \
         no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        text.push_str(body);
    }
    write_all(&mut stream, text.as_bytes(), Instant::now() + PATIENCE)
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get {
        path: String,
        head_only: bool,
    },
    OtherMethod,
    Nonsense,
    /// It came and went.
    None,
}

fn read_request(stream: &mut impl Stream) -> io::Result<Request> {
    let end = Instant::now() + PATIENCE;
    let mut head = Vec::with_capacity(1024);
    loop {
        let mut buffer = [0; 1024];
        match read_some(stream, &mut buffer, end)? {
            0 if head.is_empty() => return Ok(Request::None),
            0 => return Ok(Request::Nonsense),
            read => head.extend_from_slice(&buffer[..read]),
        }
        if let Some(request) = parse(&head) {
            return Ok(request);
        }
        if head.len() > MAX_HEAD {
            return Ok(Request::Nonsense);
        }
    }
}

/// `None` while the head is not complete.
fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Request::Nonsense),
    }
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Some(Request::OtherMethod),
    };
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Some(Request::Get { path, head_only })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn pages() -> Arc<Pages> {
        Arc::new(|path| (path == "/healthz").then(|| Page::plain(200, "fine")))
    }

    fn ask(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_answers() {
        let server = Server::start(Some(([127, 0, 0, 1], 0).into()), None, pages()).unwrap();
        let address = server.address.unwrap();
        let answer = ask(address, "GET /healthz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nfine\n"), "{answer}");
        let answer = ask(address, "HEAD /healthz HTTP/1.1\r\n\r\n");
        assert!(answer.contains("Content-Length: 5\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "404"),
            ("POST /healthz HTTP/1.1\r\n\r\n".to_owned(), "405"),
            ("\u{1}nonsense\r\n\r\n".to_owned(), "400"),
            (format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD)), "400"),
        ] {
            let answer = ask(address, &request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.40}: {answer}");
        }
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_one_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let server = Server::start(None, Some(&path), pages()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("fine\n"), "{answer}");
        drop(server);
        assert!(!path.exists());
        std::fs::write(&path, "a file of somebody's").unwrap();
        assert!(Server::start(None, Some(&path), pages()).is_err());
        assert!(path.exists());
    }
}
