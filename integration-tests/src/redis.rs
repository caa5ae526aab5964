//! A real redis-server, and a look into it past the runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult, ToRedisArgs};
use tempfile::TempDir;

use crate::server::{Program, Server};
use crate::{certificates, installed, ports, scratch, wait};

/// How the server is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `requirepass`: the password of the default user.
    pub password: Option<&'static str>,
    /// A further user, by name and password, who may do everything.
    pub user: Option<(&'static str, &'static str)>,
    /// Whether it also listens with TLS, with a certificate for localhost by a CA of its own.
    pub tls: bool,
    /// The server that it is a replica of, by its port. Both have the same [`password`](Self::password).
    pub replica_of: Option<u16>,
}

/// A running redis-server. It appends every write to a file, so after a kill it starts again with what it had.
#[derive(Debug)]
pub struct Redis {
    server: Option<Server>,
    program: Program,
    options: Options,
    scratch: TempDir,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The port with TLS, if there is one.
    pub tls_port: u16,
    /// The file with the authority that the certificate for TLS is by.
    pub authority: PathBuf,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start(options: Options) -> Self {
        let scratch = scratch::directory("redis");
        let port = ports::free_port();
        let tls_port = if options.tls { ports::free_port() } else { 0 };
        let mut arguments = vec![
            format!("--port {port}"),
            "--bind 127.0.0.1".into(),
            format!("--dir {}", scratch.path().display()),
            "--save ''".into(),
            "--appendonly yes".into(),
            "--appendfsync no".into(),
            "--repl-diskless-sync-delay 0".into(),
        ];
        if let Some(password) = options.password {
            arguments.push(format!("--requirepass {password}"));
        }
        if let Some(primary) = options.replica_of {
            arguments.push(format!("--replicaof 127.0.0.1 {primary}"));
            arguments.extend(options.password.map(|password| format!("--masterauth {password}")));
        }
        if let Some((name, password)) = options.user {
            arguments.push(format!("--user {name} on >{password} ~* &* +@all"));
        }
        let mut authority = PathBuf::new();
        if options.tls {
            let files = certificates::make(scratch.path());
            arguments.push(format!("--tls-port {tls_port}"));
            arguments.push(format!("--tls-cert-file {}", files.certificate.display()));
            arguments.push(format!("--tls-key-file {}", files.key.display()));
            arguments.push(format!("--tls-ca-cert-file {}", files.authority.display()));
            arguments.push("--tls-auth-clients no".into());
            authority = files.authority;
        }
        let configuration = scratch.path().join("redis.conf");
        let lines: Vec<_> = arguments.iter().map(|argument| argument.trim_start_matches("--")).collect();
        std::fs::write(&configuration, lines.join("\n") + "\n").unwrap();
        let program = Program {
            binary: installed::system("redis-server"),
            arguments: vec![configuration.to_str().unwrap().to_owned()],
            scratch: scratch.path().to_path_buf(),
        };
        let mut redis = Self { server: None, program, options, scratch, port, tls_port, authority };
        redis.restart().await;
        redis
    }

    /// Starts a replica of this server, with its password, and waits until it has what this server has.
    pub async fn replica(&self) -> Self {
        let password = self.options.password;
        let replica = Self::start(Options { password, replica_of: Some(self.port), ..Options::default() }).await;
        replica.is_in_sync().await;
        replica
    }

    /// Waits until this replica is connected to its primary and has what it has.
    pub async fn is_in_sync(&self) {
        wait::eventually("the replica is in sync", async || {
            let about: String = self.command(&["INFO", "replication"]).await;
            if about.contains("master_link_status:up") { Ok(()) } else { Err(about) }
        })
        .await;
    }

    /// `host:port`, as `redisHost` wants it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would. Its data stays on disk.
    pub async fn kill(&mut self) {
        self.server.take().expect("the server runs").kill().await;
    }

    /// Starts the server again on the same port, with the data it had.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        let mut server = Server::start(&self.program, &self.scratch.path().join("redis.log")).await;
        wait::eventually("Redis answers", async || {
            if server.has_ended().await {
                panic!("redis-server has ended:\n{}", server.log().await);
            }
            self.try_command::<String>(0, &["PING"]).await
        })
        .await;
        self.server = Some(server);
    }

    /// Stops the server where it stands: connections stay open, nothing is answered.
    pub async fn pause(&self) {
        self.server.as_ref().expect("the server runs").pause().await;
    }

    /// Lets a paused server go on.
    pub async fn resume(&self) {
        self.server.as_ref().expect("the server runs").resume().await;
    }

    /// Runs a command on database 0.
    pub async fn command<T: FromRedisValue>(&self, words: &[impl ToRedisArgs]) -> T {
        self.command_on(0, words).await
    }

    /// Runs a command on a database.
    pub async fn command_on<T: FromRedisValue>(&self, database: u32, words: &[impl ToRedisArgs]) -> T {
        self.try_command(database, words).await.unwrap_or_else(|error| panic!("Redis: {error}"))
    }

    async fn try_command<T: FromRedisValue>(&self, database: u32, words: &[impl ToRedisArgs]) -> RedisResult<T> {
        let mut connection = self.connection(database).await?;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await
    }

    /// A connection to a database, for a test that runs many commands.
    pub async fn connection(&self, database: u32) -> RedisResult<MultiplexedConnection> {
        let login = self.options.password.map_or_else(String::new, |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}/{database}", self.port))?;
        // Of its own the client gives up after half a second, which WAIT and a loaded machine take longer than.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(wait::PATIENCE));
        client.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// The hash under `key`, field by field.
    pub async fn hash(&self, key: &str) -> BTreeMap<String, String> {
        self.command(&["HGETALL", key]).await
    }

    /// All keys of database 0, sorted.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }
}
