//! A server that answers with garbage: noise, what almost is a reply, lengths that are never kept, half replies.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::ports;

/// What a client of Redis, of HTTP/2 or of HTTP/1 may take for the beginning of a reply.
const ALMOST: [&[u8]; 20] = [
    b"+PONG\r\n",
    b"+OK\r\n",
    b"$-1\r\n",
    b"$5\r\nhello\r\n",
    b":1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*4\r\n$4\r\ndata\r\n$1300000000\r\n",
    b"*2147483647\r\n",
    b"*4\r\n$4\r\ndata\r\n$1\r\nx\r\n$7\r\nversion\r\n",
    b"*4\r\n$4\r\ndata\r\n$1\r\nx\r\n$7\r\nversion\r\n$1\r\n1\r\n",
    b"$9223372036854775807\r\n",
    b"$-9\r\n",
    b"-ERR no\r\n",
    b"-MOVED 1 127.0.0.1:1\r\n",
    b"%1\r\n+a\r\n+b\r\n",
    b"\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0", // SETTINGS, and their acknowledgement
    b"\xff\xff\xff\0\0\0\0\0\x01",                 // DATA of 16 MiB
    b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}",
];

/// The server. Dropping it closes its port.
#[derive(Debug)]
pub(super) struct Garbage {
    pub(super) port: u16,
    task: JoinHandle<()>,
}

impl Garbage {
    pub(super) async fn start(seed: u64) -> Self {
        let port = ports::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let mut random = StdRng::seed_from_u64(seed ^ 0x6a7b);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, StdRng::seed_from_u64(random.random())));
            }
        });
        Self { port, task }
    }
}

impl Drop for Garbage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, mut random: StdRng) {
    let mut request = vec![0; 64 << 10];
    // A login that is right lets more of the client be reached.
    let polite = random.random_bool(0.5);
    for _ in 0..random.random_range(1..50) {
        let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(20), stream.read(&mut request)).await else { return };
        let pings = request[..length].windows(4).filter(|word| *word == b"PING").count();
        let mut answer = Vec::new();
        if polite && pings > 0 {
            answer = b"+PONG\r\n".repeat(pings);
        } else {
            for _ in 0..random.random_range(1..4) {
                match random.random_range(0..10) {
                    0 => {
                        let from = answer.len();
                        answer.resize(from + random.random_range(0..3000), 0);
                        random.fill_bytes(&mut answer[from..]);
                    }
                    1 => answer.extend(std::iter::repeat_n(b'*', random.random_range(0..200))),
                    2 => answer.extend(b"*1\r\n".repeat(random.random_range(0..5000))), // as deep as one likes
                    3 => answer.extend(std::iter::repeat_n(b'x', random.random_range(0..1 << 20))),
                    _ => answer.extend_from_slice(ALMOST.choose(&mut random).expect("there are some")),
                }
            }
            if random.random_bool(0.2) {
                answer.truncate(random.random_range(0..=answer.len()));
            }
        }
        // It fails when the client has had enough.
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if random.random_bool(0.05) {
            sleep(Duration::from_millis(random.random_range(0..8000))).await;
        }
    }
}
