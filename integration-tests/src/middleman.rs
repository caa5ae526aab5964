//! A TCP proxy between Envoy and a server, through which a test spoils the conversation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::ports;

/// How many reads may be on their way to the client: while they are late, the server goes on sending.
const UNDER_WAY: usize = 64;

/// What happens to the bytes that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// They are passed on.
    Pass,
    /// They are swallowed; the connection stays open.
    Swallow,
    /// This many more bytes are passed on, then the connection is closed.
    CloseAfter(usize),
    /// They are passed on this much later: the server is far away.
    Late(Duration),
    /// They are passed on in pieces of so many bytes, with this pause after each.
    Pieces(usize, Duration),
}

/// A running proxy. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Middleman {
    /// Its port on 127.0.0.1.
    pub port: u16,
    replies: watch::Sender<Replies>,
    connections: Arc<AtomicUsize>,
    /// How often all connections were cut.
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Middleman {
    /// A proxy in front of a port of 127.0.0.1.
    pub async fn before(server: u16) -> Self {
        let port = ports::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let (replies, watcher) = watch::channel(Replies::Pass);
        let connections = Arc::new(AtomicUsize::new(0));
        let (cuts, cut) = watch::channel(0);
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    let (watcher, mut cut) = (watcher.clone(), cut.clone());
                    cut.mark_unchanged();
                    tasks.spawn(async move {
                        tokio::select! { () = pass(client, server, watcher) => {}, _ = cut.changed() => {} }
                    });
                }
            }
        });
        Self { port, replies, connections, cuts, task }
    }

    /// Says what happens to replies from now on.
    pub fn replies(&self, replies: Replies) {
        self.replies.send_replace(replies);
    }

    /// Closes the connections that are open.
    pub fn cut_connections(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
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
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let requests = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    let answers = async move { tokio::join!(read(from_server, replies, sender), write(receiver, to_client)) };
    // When either direction ends, both do.
    tokio::select! { () = requests => {}, _ = answers => {} }
}

/// What is to be written when.
type Due = (Instant, Replies, Vec<u8>);

async fn read(mut server: OwnedReadHalf, replies: watch::Receiver<Replies>, sender: mpsc::Sender<Due>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = server.read(&mut buffer).await {
        let mode = *replies.borrow();
        let delay = if let Replies::Late(delay) = mode { delay } else { Duration::ZERO };
        if sender.send((Instant::now() + delay, mode, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(mut receiver: mpsc::Receiver<Due>, mut client: OwnedWriteHalf) {
    let mut sent = 0;
    let mut mode = Replies::Pass;
    while let Some((due, current, bytes)) = receiver.recv().await {
        sleep_until(due).await;
        if current != mode {
            (mode, sent) = (current, 0);
        }
        let written = match mode {
            Replies::Pass | Replies::Late(_) => client.write_all(&bytes).await,
            Replies::Swallow => Ok(()),
            Replies::CloseAfter(limit) => {
                let length = bytes.len().min(limit - sent);
                sent += length;
                let written = client.write_all(&bytes[..length]).await;
                if sent == limit {
                    return;
                }
                written
            }
            Replies::Pieces(size, pause) => {
                for piece in bytes.chunks(size.max(1)) {
                    if client.write_all(piece).await.is_err() {
                        return;
                    }
                    sleep(pause).await;
                }
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
}
