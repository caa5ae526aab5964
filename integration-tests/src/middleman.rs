//! A TCP proxy between Envoy and a server, through which a test spoils the conversation.

use crate::ports;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// They are passed on.
    Pass,
    /// They are swallowed; the connection stays open.
    Swallow,
    /// This many more bytes are passed on, then the connection is closed.
    CloseAfter(usize),
}

/// A running proxy. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Middleman {
    /// Its port on 127.0.0.1.
    pub port: u16,
    replies: watch::Sender<Replies>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Middleman {
    /// A proxy in front of a port of 127.0.0.1.
    pub async fn before(server: u16) -> Self {
        let port = ports::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let (replies, watcher) = watch::channel(Replies::Pass);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    tasks.spawn(pass(client, server, watcher.clone()));
                }
            }
        });
        Self { port, replies, connections, task }
    }

    /// Says what happens to replies from now on.
    pub fn replies(&self, replies: Replies) {
        self.replies.send_replace(replies);
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Middleman {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: TcpStream, replies: watch::Receiver<Replies>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answers = async move {
        let mut buffer = vec![0; 64 << 10];
        let mut sent = 0;
        let mut mode = Replies::Pass;
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let current = *replies.borrow();
            if current != mode {
                (mode, sent) = (current, 0);
            }
            match mode {
                Replies::Pass => {
                    if to_client.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
                Replies::Swallow => {}
                Replies::CloseAfter(limit) => {
                    let length = length.min(limit - sent);
                    sent += length;
                    if to_client.write_all(&buffer[..length]).await.is_err() || sent == limit {
                        return;
                    }
                }
            }
        }
    };
    // When either direction ends, both do.
    tokio::select! { () = requests => {}, () = answers => {} }
}
