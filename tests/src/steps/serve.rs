//! Servers that go on until they are killed.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use super::socket::accept;

const BODY: &str = "netdiag-tests\n";

pub(super) fn connections(listener: &OwnedFd, http: bool) {
    loop {
        if let Ok((mut stream, _)) = accept(listener) {
            std::thread::spawn(move || one(&mut stream, http));
        }
    }
}

pub(super) fn one(stream: &mut TcpStream, http: bool) {
    if http { answer(stream) } else { echo(stream) }
}

fn echo(stream: &mut TcpStream) {
    let mut buffer = [0; 16384];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// One request, one answer, as HTTP/1.0 has it.
fn answer(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let _ = stream.write_all(head.as_bytes());
}

pub(super) fn datagrams(socket: OwnedFd) {
    let socket = UdpSocket::from(socket);
    let mut buffer = [0; 65536];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
