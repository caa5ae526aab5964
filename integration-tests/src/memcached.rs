//! A real memcached, and a look into it past the runtime.

use std::io;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Program, Server};
use crate::{installed, ports, scratch, wait};

/// A running memcached. It keeps nothing when it is killed.
#[derive(Debug)]
pub struct Memcached {
    server: Option<Server>,
    program: Program,
    scratch: TempDir,
    /// The port on 127.0.0.1.
    pub port: u16,
}

impl Memcached {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        let scratch = scratch::directory("memcached");
        let port = ports::free_port();
        let mut arguments = vec!["-l".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), port.to_string()];
        if rustix::process::getuid().is_root() {
            arguments.extend(["-u".to_owned(), "root".to_owned()]); // which it does not run as unless it is told to
        }
        let program =
            Program { binary: installed::system("memcached"), arguments, scratch: scratch.path().to_path_buf() };
        let mut memcached = Self { server: None, program, scratch, port };
        memcached.restart().await;
        memcached
    }

    /// Starts the server again on the same port, empty.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        let mut server = Server::start(&self.program, &self.scratch.path().join("memcached.log")).await;
        wait::eventually("memcached answers", async || {
            if server.has_ended().await {
                panic!("memcached has ended:\n{}", server.log().await);
            }
            self.try_say("version\r\n").await
        })
        .await;
        self.server = Some(server);
    }

    /// `host:port`, as `hosts` wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would.
    pub async fn kill(&mut self) {
        self.server.take().expect("the server runs").kill().await;
    }

    /// Stops the server where it stands: connections stay open, nothing is answered.
    pub async fn pause(&self) {
        self.server.as_ref().expect("the server runs").pause().await;
    }

    /// Lets a paused server go on.
    pub async fn resume(&self) {
        self.server.as_ref().expect("the server runs").resume().await;
    }

    /// What the server says to commands, before it ends the connection.
    pub async fn say(&self, commands: &str) -> String {
        self.try_say(commands).await.unwrap_or_else(|error| panic!("memcached: {error}"))
    }

    async fn try_say(&self, commands: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(format!("{commands}quit\r\n").as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    }
}
