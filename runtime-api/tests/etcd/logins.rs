//! One login for all calls, its token, and what becomes of a refused one.

use std::rc::Rc;
use std::time::Duration;

use crate::support::{get, status, value};
use crate::{CLUSTER, expect_metadata, found, header, store, take};
use envoy_runtime_proto::etcd::etcdserverpb as etcd;
use runtime_api::Runtime;
use runtime_api::testing::World;
use serde_json::json;
use tonic::Code;

fn token(token: &str) -> etcd::AuthenticateResponse {
    etcd::AuthenticateResponse { header: header(1), token: token.to_owned() }
}

fn with_login() -> (World, Rc<Runtime>) {
    store("v1", json!({"username": "u", "password": "hunter2"}))
}

#[test]
fn all_calls_wait_for_one_login_and_send_its_token() {
    let (world, worker) = with_login();
    let calls = [get(&world, &worker, "1"), get(&world, &worker, "2")];
    let (login, request) = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate");
    assert_eq!((request.name.as_str(), request.password.as_str()), ("u", "hunter2"));
    assert!(world.grpc_call(CLUSTER).is_none());
    login.reply(&token("t1"));
    for call in calls {
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        expect_metadata(&range, "token", Some("t1"));
        range.reply(&found("k", "v", 1));
        assert_eq!(value(&call), "v");
    }
}

#[test]
fn a_token_that_has_ended_is_renewed_once_for_all() {
    let (world, worker) = with_login();
    let calls = [get(&world, &worker, "1"), get(&world, &worker, "2")];
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    let [first, second] = [(); 2].map(|()| take::<etcd::RangeRequest>(&world, "KV/Range").0);
    first.fail(Code::Unauthenticated, "etcdserver: invalid auth token");
    second.fail(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t2"));
    for call in calls {
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        expect_metadata(&range, "token", Some("t2"));
        range.reply(&found("k", "v", 1));
        assert_eq!(value(&call), "v");
    }
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn a_token_that_is_refused_again_is_no_loop() {
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    for name in ["t1", "t2"] {
        take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token(name));
        let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
        range.fail(Code::Unauthenticated, "etcdserver: invalid auth token");
    }
    assert_eq!(status(&call).0, Code::Internal);
    assert!(world.grpc_call(CLUSTER).is_none());
}

#[test]
fn a_refused_login_says_so_without_the_password_and_is_not_repeated_at_once() {
    const REFUSED: &str = "etcdserver: authentication failed, invalid user ID or password";
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.fail(Code::InvalidArgument, REFUSED);
    let expected = format!("fail to get k from state store s: etcd says: {REFUSED}");
    assert_eq!(status(&call), (Code::Internal, expected.clone()));
    assert_eq!(status(&get(&world, &worker, "k")).1, expected);
    assert!(world.grpc_call(CLUSTER).is_none());
    world.advance(Duration::from_secs(2));
    let _call = get(&world, &worker, "k");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert!(!world.log_lines().join("\n").contains("hunter2"));
    assert!(!format!("{worker:?}").contains("hunter2"));
}

#[test]
fn a_login_that_is_given_up_does_not_hold_up_others() {
    let (world, worker) = with_login();
    let (first, second) = (get(&world, &worker, "1"), get(&world, &worker, "2"));
    first.cancel();
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&second), "v");
}

#[test]
fn a_login_that_nobody_waits_for_any_more_is_begun_anew() {
    let (world, worker) = with_login();
    get(&world, &worker, "1").cancel();
    let stale = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0;
    let call = get(&world, &worker, "2");
    stale.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&call), "v");
}

#[test]
fn a_server_without_authentication_needs_no_token_until_it_does() {
    let (world, worker) = with_login();
    let call = get(&world, &worker, "k");
    let login = take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0;
    login.fail(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
    let range = take::<etcd::RangeRequest>(&world, "KV/Range").0;
    expect_metadata(&range, "token", None);
    range.fail(Code::InvalidArgument, "etcdserver: user name is empty");
    take::<etcd::AuthenticateRequest>(&world, "Auth/Authenticate").0.reply(&token("t1"));
    take::<etcd::RangeRequest>(&world, "KV/Range").0.reply(&found("k", "v", 1));
    assert_eq!(value(&call), "v");
}
