//! A real etcd, alone or as a cluster of three, and a look into it past the runtime, by etcd's own JSON gateway.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::server::{Program, Server};
use crate::wait::{self, PATIENCE};
use crate::{certificates, http1, installed, ports, scratch};

/// Which etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// Debian's: 3.4 in Debian 12.
    Debian34,
    /// The new one that `make tools` builds.
    #[default]
    V37,
}

impl Version {
    /// Both, for suites that run on each.
    pub const ALL: [Self; 2] = [Self::Debian34, Self::V37];

    fn binary(self) -> PathBuf {
        match self {
            Self::Debian34 => installed::etcd_of_debian(),
            Self::V37 => installed::etcd(),
        }
    }
}

/// How the server is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which one.
    pub version: Version,
    /// With it, authentication is on, and this is the password of the user `root`.
    pub root_password: Option<&'static str>,
    /// Whether it also listens with TLS, with a certificate for localhost by a CA of its own.
    pub tls: Option<Tls>,
}

/// What TLS asks of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nothing.
    Server,
    /// A certificate by the same authority: that of the server will do.
    Mutual,
}

/// A running etcd: alone, or a member of a [`Cluster`]. After a kill it starts again with what it had.
#[derive(Debug)]
pub struct Etcd {
    server: Option<Server>,
    program: Program,
    options: Options,
    scratch: TempDir,
    /// The port on 127.0.0.1, without TLS.
    pub port: u16,
    /// The port with TLS, if there is one.
    pub tls_port: u16,
    /// The authority and the certificate for TLS, if there is one.
    pub certificates: Option<certificates::Certificates>,
}

impl Etcd {
    /// Starts a server on its own and waits until it answers.
    pub async fn start(options: Options) -> Self {
        let peer = ports::free_port();
        let mut etcd = Self::prepare("alone", options, peer, &format!("alone=http://127.0.0.1:{peer}"));
        etcd.restart().await;
        etcd.enable_authentication().await;
        etcd
    }

    fn prepare(name: &str, options: Options, peer: u16, members: &str) -> Self {
        let scratch = scratch::directory("etcd");
        let port = ports::free_port();
        let tls_port = if options.tls.is_some() { ports::free_port() } else { 0 };
        let mut clients = format!("http://127.0.0.1:{port}");
        let mut words = Vec::new();
        let certificates = options.tls.map(|tls| {
            let files = certificates::make(scratch.path());
            clients = format!("{clients},https://127.0.0.1:{tls_port}");
            words.push(format!("--cert-file={}", files.certificate.display()));
            words.push(format!("--key-file={}", files.key.display()));
            // An authority alone would make etcd ask for certificates.
            if tls == Tls::Mutual {
                words.push(format!("--trusted-ca-file={}", files.authority.display()));
                words.push("--client-cert-auth".into());
            }
            files
        });
        words.extend([
            format!("--name={name}"),
            format!("--data-dir={}", scratch.path().join("data").display()),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster={members}"),
            "--bcrypt-cost=4".into(), // the least there is: a login is not to take long
            // The most there is: minutes of random writes are more than the usual two gigabytes.
            format!("--quota-backend-bytes={}", 8_u64 << 30),
        ]);
        let program =
            Program { binary: options.version.binary(), arguments: words, scratch: scratch.path().to_path_buf() };
        Self { server: None, program, options, scratch, port, tls_port, certificates }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would. Its data stays on disk.
    pub async fn kill(&mut self) {
        self.server.take().expect("the server runs").kill().await;
    }

    /// Starts the server again on the same ports, with the data it had, and waits until it serves.
    pub async fn restart(&mut self) {
        self.launch().await;
        self.serves().await;
    }

    /// Starts the server again and does not wait: a member of a cluster without a quorum does not serve.
    pub async fn launch(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        self.server = Some(Server::start(&self.program, &self.scratch.path().join("etcd.log")).await);
    }

    /// Waits until the server serves: a leader is known, and it writes.
    pub async fn serves(&mut self) {
        let server = self.server.as_mut().expect("the server runs");
        wait::eventually("etcd is healthy", async || {
            if server.has_ended().await {
                panic!("etcd has ended:\n{}", server.log().await);
            }
            match http1::get(self.port, "/health").await {
                Ok((200, body)) if body.contains(r#""health":"true""#) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Stops the server where it stands: connections stay open, nothing is answered.
    pub async fn pause(&self) {
        self.server.as_ref().expect("the server runs").pause().await;
    }

    /// Lets a paused server go on.
    pub async fn resume(&self) {
        self.server.as_ref().expect("the server runs").resume().await;
    }

    /// What the server has written so far.
    pub async fn log(&self) -> String {
        self.server.as_ref().expect("the server runs").log().await
    }

    async fn enable_authentication(&self) {
        let Some(password) = self.options.root_password else { return };
        self.anonymous("auth/user/add", json!({"name": "root", "password": password})).await.unwrap();
        self.anonymous("auth/role/add", json!({"name": "root"})).await.unwrap();
        self.anonymous("auth/user/grant", json!({"user": "root", "role": "root"})).await.unwrap();
        self.anonymous("auth/enable", json!({})).await.unwrap();
    }

    /// Adds a user who may read and write the keys that begin with `prefix`, and nothing else.
    pub async fn add_user(&self, name: &str, password: &str, prefix: &str) {
        let permission = json!({"permType": "READWRITE", "key": base64(prefix), "range_end": base64(after(prefix))});
        self.call("auth/user/add", json!({"name": name, "password": password})).await.unwrap();
        self.call("auth/role/add", json!({"name": name})).await.unwrap();
        self.call("auth/role/grant", json!({"name": name, "perm": permission})).await.unwrap();
        self.call("auth/user/grant", json!({"user": name, "role": name})).await.unwrap();
    }

    /// Calls a method of the gateway by its path after `/v3/`, as root where there is authentication.
    pub async fn call(&self, method: &str, request: Value) -> Result<Value, Error> {
        let Some(password) = self.options.root_password else { return self.anonymous(method, request).await };
        let login = self.anonymous("auth/authenticate", json!({"name": "root", "password": password})).await?;
        self.with_token(method, request, login["token"].as_str()).await
    }

    /// The same without logging in.
    pub async fn anonymous(&self, method: &str, request: Value) -> Result<Value, Error> {
        self.with_token(method, request, None).await
    }

    async fn with_token(&self, method: &str, request: Value, token: Option<&str>) -> Result<Value, Error> {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let path = format!("/v3/{method}");
        let exchange = http1::request(self.port, Method::POST, &path, &headers, request.to_string());
        let response = timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| panic!("etcd does not answer {method}"))
            .map_err(|error| Error { http_status: 0, code: 0, message: error.to_string() })?;
        let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        if response.status().is_success() {
            return Ok(body);
        }
        Err(Error {
            http_status: response.status().as_u16(),
            code: body["code"].as_i64().unwrap_or_default(),
            message: body["message"].as_str().or(body["error"].as_str()).unwrap_or_default().to_owned(),
        })
    }

    /// Puts a value, and gives the revision at which it was put.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        self.try_put(key, value).await.unwrap_or_else(|error| panic!("etcd: put {key}: {error}"))
    }

    /// The same where it may fail.
    pub async fn try_put(&self, key: &str, value: &str) -> Result<i64, Error> {
        let reply = self.call("kv/put", json!({"key": base64(key), "value": base64(value)})).await?;
        Ok(revision(&reply))
    }

    /// The item under `key`.
    pub async fn get(&self, key: &str) -> Option<Item> {
        self.try_get(key).await.unwrap_or_else(|error| panic!("etcd: get {key}: {error}"))
    }

    /// The same where it may fail, as it does without a quorum.
    pub async fn try_get(&self, key: &str) -> Result<Option<Item>, Error> {
        Ok(self.call("kv/range", json!({"key": base64(key)})).await.map(|reply| items(&reply))?.pop())
    }

    /// The value under `key` as text; `None` when there is none.
    pub async fn value(&self, key: &str) -> Option<String> {
        self.get(key).await.map(|item| String::from_utf8_lossy(&item.value).into_owned())
    }

    /// All items whose keys begin with `prefix`, sorted by key.
    pub async fn with_prefix(&self, prefix: &str) -> Vec<Item> {
        let first = if prefix.is_empty() { "\0" } else { prefix };
        let mut request = json!({"key": base64(first), "range_end": base64(after(prefix))});
        request["sort_target"] = "KEY".into();
        request["sort_order"] = "ASCEND".into();
        items(&self.call("kv/range", request).await.unwrap_or_else(|error| panic!("etcd: range {prefix}: {error}")))
    }

    /// Deletes a key, and says whether there was one.
    pub async fn delete(&self, key: &str) -> bool {
        let reply = self.call("kv/deleterange", json!({"key": base64(key)})).await;
        number(&reply.unwrap_or_else(|error| panic!("etcd: delete {key}: {error}"))["deleted"]) > 0
    }

    /// Puts `value` if the item under `key` is still of `revision` (0: if there is none), and says whether it did: a
    /// transaction.
    pub async fn put_if(&self, key: &str, revision: i64, value: &str) -> bool {
        let request = json!({
            "compare": [{"key": base64(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()}],
            "success": [{"request_put": {"key": base64(key), "value": base64(value)}}],
        });
        self.transaction(request).await["succeeded"] == true
    }

    /// Runs a transaction as the gateway writes it: `compare`, `success` and `failure`, with keys and values in base64.
    pub async fn transaction(&self, request: Value) -> Value {
        self.call("kv/txn", request).await.unwrap_or_else(|error| panic!("etcd: transaction: {error}"))
    }

    /// Forgets what was before `revision`: a watch from there fails.
    pub async fn compact(&self, revision: i64) {
        let request = json!({"revision": revision.to_string(), "physical": true});
        self.call("kv/compaction", request).await.unwrap_or_else(|error| panic!("etcd: compact: {error}"));
    }

    /// The revision of the whole store.
    pub async fn revision(&self) -> i64 {
        let reply = self.call("kv/range", json!({"key": base64("revision"), "count_only": true})).await;
        revision(&reply.unwrap_or_else(|error| panic!("etcd: {error}")))
    }

    /// The leases that are alive, sorted.
    pub async fn leases(&self) -> Vec<i64> {
        let reply = self.call("lease/leases", json!({})).await.unwrap_or_else(|error| panic!("etcd: leases: {error}"));
        let mut leases: Vec<_> = list(&reply["leases"]).map(|lease| number(&lease["ID"])).collect();
        leases.sort_unstable();
        leases
    }

    /// Grants a lease of `seconds` (etcd gives no less than 2), to put under it by [`Self::call`].
    pub async fn grant(&self, seconds: i64) -> i64 {
        let reply = self.call("lease/grant", json!({"TTL": seconds.to_string()})).await;
        number(&reply.unwrap_or_else(|error| panic!("etcd: grant: {error}"))["ID"])
    }

    /// Ends a lease, and what was put under it.
    pub async fn revoke(&self, lease: i64) {
        let reply = self.call("lease/revoke", json!({"ID": lease.to_string()})).await;
        reply.unwrap_or_else(|error| panic!("etcd: revoke: {error}"));
    }

    /// How many watchers this server has.
    pub async fn watchers(&self) -> u64 {
        self.metric("etcd_debugging_mvcc_watcher_total").await
    }

    /// How many streams of watches this server has: a client has one for all its watchers, or more.
    pub async fn watch_streams(&self) -> u64 {
        self.metric("etcd_debugging_mvcc_watch_stream_total").await
    }

    async fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = http1::get(self.port, "/metrics").await.expect("etcd answers");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no {name} in the metrics of etcd"))
    }
}

/// Three servers that hold the same data as long as two of them run.
#[derive(Debug)]
pub struct Cluster {
    /// Each of them: to be killed, restarted, and looked into.
    pub members: [Etcd; 3],
}

impl Cluster {
    /// Starts the servers and waits until each serves.
    pub async fn start(options: Options) -> Self {
        let peers = [ports::free_port(), ports::free_port(), ports::free_port()];
        let names = ["one", "two", "three"];
        let all: Vec<_> =
            names.iter().zip(peers).map(|(name, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
        let mut members =
            [0, 1, 2].map(|index| Etcd::prepare(names[index], options.clone(), peers[index], &all.join(",")));
        for member in &mut members {
            member.launch().await;
        }
        for member in &mut members {
            member.serves().await;
        }
        members[0].enable_authentication().await;
        Self { members }
    }

    /// `host:port` of each.
    pub fn addresses(&self) -> [String; 3] {
        self.members.each_ref().map(Etcd::address)
    }
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the store at which the key came to be.
    pub create_revision: i64,
    /// The revision of the store at which the value was put.
    pub mod_revision: i64,
    /// How often a value was put since the key came to be.
    pub version: i64,
    /// The lease that it is under, or 0.
    pub lease: i64,
}

/// What etcd says when it does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The status of HTTP; 0 when there was no answer.
    pub http_status: u16,
    /// The status of gRPC.
    pub code: i64,
    /// Its text.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (gRPC {}, HTTP {})", self.message, self.code, self.http_status)
    }
}

/// The gateway's form of keys and values.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// The end of the range of all keys that begin with `prefix`; for an empty one, of all keys.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1, // text never ends with a byte of 0xff
        None => end.push(0),
    }
    end
}

fn items(reply: &Value) -> Vec<Item> {
    let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).expect("etcd sends base64");
    list(&reply["kvs"])
        .map(|item| Item {
            key: String::from_utf8_lossy(&bytes(&item["key"])).into_owned(),
            value: bytes(&item["value"]),
            create_revision: number(&item["create_revision"]),
            mod_revision: number(&item["mod_revision"]),
            version: number(&item["version"]),
            lease: number(&item["lease"]),
        })
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn revision(reply: &Value) -> i64 {
    number(&reply["header"]["revision"])
}

/// JSON of protobuf writes 64 bits as text, and leaves out a zero.
fn number(value: &Value) -> i64 {
    value.as_str().map_or(0, |text| text.parse().expect("etcd sends numbers"))
}
