//! An etcd client: calls of etcd's v3 API as unary gRPC calls, and a watch ([`Watch`]) over one stream for all who
//! watch.
//!
//! Which member answers, and how it is reached, is Envoy's business: all endpoints are servers of one cluster. Nothing
//! is kept between calls but the token of the login, which is renewed when the server no longer takes it.

mod lease;
mod watch;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::etcd::etcdserverpb as etcd;
use envoy_runtime_proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use envoy_runtime_proto::etcd::etcdserverpb::request_op::Request;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared as SharedFuture};
use prost::Message;
use tonic::Code;

pub use lease::{Step, Write};
pub use watch::{Batch, Change, Watch};

use crate::protocol::Failure;
use crate::proxy::{Closed, Instant, Method, Proxy};
use crate::trace;

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No server was reached, or none that could serve: there is no leader, or it did not answer in time.
    #[error("etcd is unreachable or not ready: {0}")]
    Unavailable(String),
    /// The server refused the call.
    #[error("etcd says: {0}")]
    Refused(String),
    /// The server answered something that the call does not allow for.
    #[error("unexpected answer of etcd to {0}")]
    Unexpected(&'static str),
}

/// Who logs in.
#[derive(Clone, Default)]
pub struct Login {
    /// The name of the user.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.name)
    }
}

/// The client of one store.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    proxy: Rc<dyn Proxy>,
    /// The component, for the log and metrics.
    component: String,
    cluster: String,
    /// How long a single call may take; the deadline of the app's call holds as well.
    timeout: Duration,
    /// How often Envoy may try another member when one cannot be connected to.
    retries: String,
    login: Option<Login>,
    token: RefCell<Token>,
    /// The login under way, if there is one: all who need it wait for the same.
    logging_in: RefCell<Option<LoggingIn>>,
    /// Until when a refused login is not tried again, and why it was refused: a server takes long to check passwords.
    refused: RefCell<Option<(Instant, Error)>>,
    watches: watch::Hub,
    /// How many leases are being given back.
    returning: Cell<usize>,
    watch_lost: Cell<Option<crate::proxy::Metric>>,
}

type LoggingIn = SharedFuture<LocalBoxFuture<'static, Result<(), Error>>>;

/// What is known about logging in.
#[derive(Clone, PartialEq, Eq)]
enum Token {
    /// A login is needed before the next call.
    Missing,
    /// To be sent with each call.
    Given(Rc<str>),
    /// None: there is no login, or the server wants none.
    None,
}

impl Token {
    fn metadata(&self) -> Vec<(&'static str, &str)> {
        // A member without a leader says so at once, instead of waiting for one.
        let mut metadata = vec![("hasleader", "true")];
        if let Self::Given(token) = self {
            metadata.push(("token", token));
        }
        metadata
    }
}

impl fmt::Debug for Client {
    /// Without the token and the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.component)
    }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const RANGE: Method = (KV, "Range");
const TXN: Method = (KV, "Txn");
const AUTHENTICATE: Method = ("etcdserverpb.Auth", "Authenticate");

/// How long a refused login is not repeated.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

impl Client {
    /// A client that calls when it is asked to. A call may take so long; `members` is how many there are.
    pub fn new(
        proxy: Rc<dyn Proxy>,
        component: &str,
        cluster: &str,
        login: Option<Login>,
        timeout: Duration,
        members: usize,
    ) -> Self {
        Self(Rc::new(Shared {
            proxy,
            component: component.to_owned(),
            cluster: cluster.to_owned(),
            timeout,
            retries: (members.saturating_sub(1) * 2).min(6).to_string(),
            token: RefCell::new(if login.is_some() { Token::Missing } else { Token::None }),
            login,
            logging_in: RefCell::default(),
            refused: RefCell::default(),
            watches: watch::Hub::default(),
            returning: Cell::default(),
            watch_lost: Cell::default(),
        }))
    }

    /// Reads a key or a range.
    pub async fn range(&self, request: etcd::RangeRequest) -> Result<etcd::RangeResponse, Error> {
        self.call(RANGE, &request).await
    }

    /// Runs a transaction.
    pub async fn transact(&self, request: etcd::TxnRequest) -> Result<etcd::TxnResponse, Error> {
        self.call(TXN, &request).await
    }

    /// Makes a call, after a login if one is needed, and once more after another login if the token had ended.
    async fn call<Answer: Message + Default>(&self, method: Method, request: &impl Message) -> Result<Answer, Error> {
        let message = request.encode_to_vec();
        let token = self.token().await?;
        let answer = match self.exchange(method, &message, &token).await {
            Err(closed) if self.has_ended(&token, &closed) => {
                let token = self.token().await?;
                self.exchange(method, &message, &token).await
            }
            answer => answer,
        };
        let bytes = answer.map_err(Error::from)?;
        Answer::decode(bytes).map_err(|_| Error::Unexpected(method.1))
    }

    fn exchange(
        &self,
        method: Method,
        message: &[u8],
        token: &Token,
    ) -> LocalBoxFuture<'static, Result<bytes::Bytes, Closed>> {
        let shared = &self.0;
        let mut metadata = token.metadata();
        // Envoy tries another member where it is sure that the first has not begun with the call.
        if shared.retries != "0" {
            metadata.push(("x-envoy-retry-on", "connect-failure,refused-stream,reset-before-request"));
            metadata.push(("x-envoy-max-retries", &shared.retries));
        }
        if method == RANGE {
            metadata.push(("x-envoy-retry-grpc-on", "unavailable")); // a member cut off from the others
        }
        trace::sends(&shared.cluster, 1, message.len());
        shared.proxy.grpc(&shared.cluster, method, &metadata, message, shared.timeout)
    }

    /// What to send with a call; logs in if that is needed.
    async fn token(&self) -> Result<Token, Error> {
        loop {
            let token = self.0.token.borrow().clone();
            if token != Token::Missing {
                return Ok(token);
            }
            let under_way = self.0.logging_in.borrow().clone();
            let login = under_way.unwrap_or_else(|| {
                let client = self.clone();
                let login = async move { client.log_in().await }.boxed_local().shared();
                *self.0.logging_in.borrow_mut() = Some(login.clone());
                login
            });
            let outcome = login.clone().await;
            // The first of those who waited makes room for the next login.
            let mut under_way = self.0.logging_in.borrow_mut();
            if under_way.as_ref().is_some_and(|current| current.ptr_eq(&login)) {
                *under_way = None;
            }
            outcome?;
        }
    }

    async fn log_in(&self) -> Result<(), Error> {
        let shared = &self.0;
        if let Some((until, error)) = shared.refused.borrow().as_ref()
            && shared.proxy.now() < *until
        {
            return Err(error.clone());
        }
        let Login { name, password } = shared.login.clone().unwrap_or_default();
        let request = etcd::AuthenticateRequest { name, password }.encode_to_vec();
        let token = match self.exchange(AUTHENTICATE, &request, &Token::None).await {
            Ok(bytes) => {
                let answer = etcd::AuthenticateResponse::decode(bytes);
                Token::Given(answer.map_err(|_| Error::Unexpected(AUTHENTICATE.1))?.token.into())
            }
            Err(closed) if closed.text.contains("authentication is not enabled") => Token::None,
            Err(closed) => {
                let error = Error::from(closed);
                if let Error::Refused(_) = error {
                    *shared.refused.borrow_mut() = Some((shared.proxy.now() + AFTER_REFUSAL, error.clone()));
                }
                return Err(error);
            }
        };
        *shared.token.borrow_mut() = token;
        Ok(())
    }

    /// Whether the server no longer takes this token; then it is forgotten.
    fn has_ended(&self, token: &Token, closed: &Closed) -> bool {
        if self.0.login.is_none() || !is_about_token(closed.code, &closed.text) {
            return false;
        }
        self.forget(token);
        true
    }

    /// Forgets the token, unless there is another one by now.
    fn forget(&self, token: &Token) {
        let mut current = self.0.token.borrow_mut();
        if self.0.login.is_some() && *current == *token {
            *current = Token::Missing;
        }
    }
}

/// Whether the server refused for want of a token that holds: it has ended, is older than the last change of users,
/// or is missing since there was no authentication when it was last asked for.
fn is_about_token(code: Code, text: &str) -> bool {
    code == Code::Unauthenticated
        || ["invalid auth token", "revision of auth store is old", "user name is empty"]
            .iter()
            .any(|sign| text.contains(sign))
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed.code {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable(closed.text),
            Code::ResourceExhausted if closed.text.contains("too many requests") => Self::Unavailable(closed.text),
            _ => Self::Refused(closed.text),
        }
    }
}

impl Failure for Error {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The end of the range of all keys that begin with `prefix`, which is not empty.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0] // all keys from the prefix on
}

/// The request for a single key.
pub fn one(key: &[u8]) -> etcd::RangeRequest {
    etcd::RangeRequest { key: key.to_vec().into(), ..Default::default() }
}

/// The request for all keys that begin with `prefix`.
pub fn all(prefix: &[u8]) -> etcd::RangeRequest {
    etcd::RangeRequest { key: prefix.to_vec().into(), range_end: after(prefix).into(), ..Default::default() }
}

/// The condition that the key is of this revision; 0: that it is not there.
pub fn unchanged(key: &[u8], revision: i64) -> etcd::Compare {
    compare(key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
}

/// The condition that this is the value under the key.
pub fn holds(key: &[u8], value: &[u8]) -> etcd::Compare {
    compare(key, CompareTarget::Value, TargetUnion::Value(value.to_vec().into()))
}

/// The condition that so many values, or more, were put since the key came to be.
pub fn counts(key: &[u8], least: i64) -> etcd::Compare {
    let result = CompareResult::Greater.into();
    etcd::Compare { result, ..compare(key, CompareTarget::Version, TargetUnion::Version(least - 1)) }
}

fn compare(key: &[u8], target: CompareTarget, with: TargetUnion) -> etcd::Compare {
    etcd::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.to_vec().into(),
        target_union: Some(with),
    }
}

/// The step of a transaction that reads.
pub fn reads(request: etcd::RangeRequest) -> etcd::RequestOp {
    etcd::RequestOp { request: Some(Request::RequestRange(request)) }
}

/// The step of a transaction that writes.
pub fn puts(request: etcd::PutRequest) -> etcd::RequestOp {
    etcd::RequestOp { request: Some(Request::RequestPut(request)) }
}

/// The step of a transaction that removes a key.
pub fn deletes(key: &[u8]) -> etcd::RequestOp {
    let request = etcd::DeleteRangeRequest { key: key.to_vec().into(), ..Default::default() };
    etcd::RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

/// What a step of a transaction has read.
pub fn read(step: Option<&etcd::ResponseOp>) -> Option<&etcd::RangeResponse> {
    match step?.response.as_ref()? {
        etcd::response_op::Response::ResponseRange(range) => Some(range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(after(b"/a/"), b"/a0");
        assert_eq!(after(b"a\xff"), b"b");
        assert_eq!(after(b"\xff\xff"), b"\0");
    }

    #[test]
    fn what_passes_and_what_is_about_the_token() {
        let closed = |code, text: &str| Closed { code, text: text.to_owned() };
        assert!(Error::from(closed(Code::Unavailable, "etcdserver: no leader")).is_passing());
        assert!(Error::from(closed(Code::ResourceExhausted, "etcdserver: too many requests")).is_passing());
        assert!(
            !Error::from(closed(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")).is_passing()
        );
        assert!(is_about_token(Code::Unauthenticated, "etcdserver: invalid auth token"));
        assert!(is_about_token(Code::InvalidArgument, "etcdserver: revision of auth store is old"));
        assert!(!is_about_token(Code::PermissionDenied, "etcdserver: permission denied"));
    }
}
