//! Dapr's HTTP API: what comes of a request, and each code of an error at least once. What daprd answers to the same is held by
//! integration-tests/tests/recorded_http.rs; here is what the recordings do not have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use http::Method;
use runtime_api::Runtime;
use runtime_api::api::http::{Request, Response};
use runtime_api::testing::{Started, World, call, talk, worker};
use serde_json::{Value, json};
use support::{DAPR, LAYOTTO, item, message, status};
use tonic::Code;

/// A runtime with all blocks in memory, and a few servers that never answer.
fn start(more: &Value) -> (World, Rc<Runtime>) {
    let world = World::default();
    let mut components: Vec<Value> = ["state", "lock", "configuration", "sequencer"]
        .iter()
        .map(|block| json!({"name": "m", "type": format!("{block}.in-memory")}))
        .collect();
    let address = json!({"redisHost": "r:6379"});
    for block in ["state", "lock", "configuration", "sequencer"] {
        components.push(json!({"name": "gone", "type": format!("{block}.redis"), "metadata": address}));
    }
    components.push(json!({"name": "env", "type": "secretstores.local.env", "metadata": {"secrets": "{}"}}));
    let mut document =
        json!({"appId": "a", "components": components, "limits": {"maxRequestBytes": 1 << 20, "maxItems": 100}});
    for (name, value) in more.as_object().unwrap() {
        document[name] = value.clone();
    }
    let worker = worker(&world, &document);
    (world, worker)
}

fn begin(world: &World, worker: &Rc<Runtime>, request: Request) -> Started<Response> {
    let worker = Rc::clone(worker);
    world.start(async move { worker.http(&request).await })
}

fn ask(world: &World, worker: &Rc<Runtime>, method: &str, target: &str, body: &str) -> (u16, String) {
    let response = begin(world, worker, request(method, target, &[], body)).outcome().unwrap();
    (response.status.as_u16(), text(&response))
}

fn request(method: &str, target: &str, headers: &[(&'static str, &str)], body: &str) -> Request {
    Request {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        target: target.to_owned(),
        headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        body: body.to_owned().into(),
        ..Request::default()
    }
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body.to_vec()).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The status and the code of an error.
#[track_caller]
fn error(answer: &(u16, String)) -> (u16, String) {
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    (answer.0, body["errorCode"].as_str().unwrap().to_owned())
}

#[test]
fn a_value_is_read_as_it_was_written() {
    let (world, worker) = start(&json!({}));
    let saved = ask(
        &world,
        &worker,
        "POST",
        "/v1.0/state/m",
        r#"[{"key": "k", "value": { "b" : 1.0, "a": 12345678901234567890123 }}]"#,
    );
    assert_eq!(saved, (204, String::new()));
    let read = begin(&world, &worker, request("GET", "/v1.0/state/m/k", &[], "")).outcome().unwrap();
    assert_eq!(text(&read), r#"{"b":1.0,"a":12345678901234567890123}"#);
    let etag = header(&read, "etag").unwrap().to_owned();
    let stale = ask(&world, &worker, "POST", "/v1.0/state/m", r#"[{"key": "k", "value": 2, "etag": "x"}]"#);
    assert_eq!(error(&stale), (409, "ERR_STATE_SAVE".into()));
    let kept =
        begin(&world, &worker, request("DELETE", "/v1.0/state/m/k", &[("if-match", "x")], "")).outcome().unwrap();
    assert_eq!(error(&(kept.status.as_u16(), text(&kept))), (409, "ERR_STATE_DELETE".into()));
    let gone =
        begin(&world, &worker, request("DELETE", "/v1.0/state/m/k", &[("if-match", &etag)], "")).outcome().unwrap();
    assert_eq!(gone.status, 204);
    assert_eq!(ask(&world, &worker, "GET", "/v1.0/state/m/k", ""), (204, String::new()));
    assert_eq!(world.metric("runtime.requests.state.m.GetState.OK"), Some(2));
    assert_eq!(world.metric("runtime.requests.state.m.SaveState.ABORTED"), Some(1));
}

#[test]
fn a_value_of_no_bytes_and_one_that_is_no_text() {
    let (world, worker) = start(&json!({}));
    let states = vec![item("empty", ""), item("binary", "x")];
    let mut request = dapr::SaveStateRequest { store_name: "m".into(), states };
    request.states[1].value = vec![0xff, 0].into();
    assert_eq!(call(&world, &worker, &format!("{DAPR}/SaveState"), &request).outcome().unwrap().code(), Code::Ok);
    let empty = begin(&world, &worker, self::request("GET", "/v1.0/state/m/empty", &[], "")).outcome().unwrap();
    assert!(empty.status == 204 && header(&empty, "etag").is_some());
    let binary = begin(&world, &worker, self::request("GET", "/v1.0/state/m/binary", &[], "")).outcome().unwrap();
    assert_eq!((binary.status.as_u16(), &*binary.body), (200, &[0xff, 0][..]));
    let (code, bulk) = ask(&world, &worker, "POST", "/v1.0/state/m/bulk", r#"{"keys": ["binary", "none"]}"#);
    let bulk: Value = serde_json::from_str(&bulk).unwrap();
    assert_eq!((code, &bulk[1]), (200, &json!({"key": "none"})));
    assert!(bulk[0]["error"].as_str().unwrap().contains("neither JSON nor UTF-8"), "{bulk}");
}

#[test]
fn what_is_wrong_in_a_request_is_no_fault_of_the_server() {
    let (world, worker) = start(&json!({}));
    let long = format!("[{}]", vec!["{}"; 101].join(","));
    for (method, target, body, expected) in [
        ("POST", "/v1.0/state/m", "[{", (400, "ERR_MALFORMED_REQUEST")),
        ("POST", "/v1.0/state/m", "", (400, "ERR_MALFORMED_REQUEST")),
        ("POST", "/v1.0/state/m", long.as_str(), (429, "ERR_RESOURCE_EXHAUSTED")),
        ("POST", "/v1.0/state/m", r#"[{"key": "k", "options": {"concurrency": "x"}}]"#, (400, "ERR_STATE_SAVE")),
        ("POST", "/v1.0/state/m?metadata.ttlInSeconds=x", r#"[{"key": "k"}]"#, (400, "ERR_STATE_SAVE")),
        ("POST", "/v1.0/state/nope", "[]", (400, "ERR_STATE_STORE_NOT_FOUND")),
        ("GET", "/v1.0/state/m/a%7C%7Cb", "", (400, "ERR_MALFORMED_REQUEST")),
        ("GET", "/v1.0/state/m/%ff", "", (400, "ERR_MALFORMED_REQUEST")),
        ("GET", "/v1.0/state/m/k?consistency=%", "", (400, "ERR_MALFORMED_REQUEST")),
        ("DELETE", "/v1.0/state/m/k?consistency=x", "", (400, "ERR_STATE_DELETE")),
        (
            "POST",
            "/v1.0/state/m/transaction",
            r#"{"operations":[{"operation":"x","request":{"key":"k"}}]}"#,
            (400, "ERR_NOT_SUPPORTED_STATE_OPERATION"),
        ),
        (
            "POST",
            "/v1.0/state/m/transaction",
            r#"{"operations":[{"operation":"upsert","request":{"key":"k","metadata":{"ttlInSeconds":"x"}}}]}"#,
            (400, "ERR_STATE_TRANSACTION"),
        ),
        (
            "POST",
            "/v1.0/state/m/transaction",
            r#"{"operations":[{"operation":"upsert","request":{"key":"k","etag":"x"}}]}"#,
            (409, "ERR_STATE_TRANSACTION"),
        ),
        ("POST", "/v1.0-alpha1/state/m/query", "{}", (501, "ERR_STATE_STORE_NOT_SUPPORTED")),
        ("POST", "/v1.0-alpha1/lock/m", "{}", (400, "ERR_MALFORMED_REQUEST")),
        (
            "POST",
            "/v1.0-alpha1/lock/m",
            r#"{"resourceId":"a||b","lockOwner":"o","expiryInSeconds":1}"#,
            (400, "ERR_TRY_LOCK"),
        ),
        ("POST", "/v1.0-alpha1/unlock/m", r#"{"resourceId":"a||b","lockOwner":"o"}"#, (400, "ERR_UNLOCK")),
        (
            "POST",
            "/v1.0-alpha1/lock/nope",
            r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":1}"#,
            (400, "ERR_LOCK_STORE_NOT_FOUND"),
        ),
        ("GET", "/v1.0/configuration/nope", "", (400, "ERR_CONFIGURATION_STORE_NOT_FOUND")),
        ("GET", "/v1.0/configuration/m/subscribe", "", (501, "ERR_CONFIGURATION_SUBSCRIBE")),
        ("GET", "/v1.0/configuration/m/x/unsubscribe", "", (404, "ERR_CONFIGURATION_UNSUBSCRIBE")),
        ("DELETE", "/v1.0-alpha1/configuration/m", "", (400, "ERR_MALFORMED_REQUEST")),
        ("GET", "/v1.0/secrets/nope/x", "", (401, "ERR_SECRET_STORE_NOT_FOUND")),
        ("POST", "/v1.0-alpha1/sequencer/m", r#"{"key":"k","increment":"odd"}"#, (400, "ERR_MALFORMED_REQUEST")),
        ("POST", "/v1.0-alpha1/sequencer/m", r#"{"key":"a||b"}"#, (400, "ERR_MALFORMED_REQUEST")),
        ("POST", "/v1.0-alpha1/sequencer/m", "{}", (400, "ERR_MALFORMED_REQUEST")),
        ("POST", "/v1.0-alpha1/sequencer/nope", r#"{"key":"k"}"#, (400, "ERR_SEQUENCER_NOT_FOUND")),
        ("GET", "/v1.0/nothing", "", (404, "ERR_DIRECT_INVOKE")),
        ("PATCH", "/v1.0/state/m", "", (404, "ERR_DIRECT_INVOKE")),
        ("PUT", "/v1.0/metadata/%20", &"x".repeat(70_000), (400, "ERR_METADATA_SET")),
        ("GET", "/v1.0/healthz?appid=other", "", (500, "ERR_HEALTH_APPID_NOT_MATCH")),
    ] {
        let answer = ask(&world, &worker, method, target, body);
        assert_eq!(error(&answer), (expected.0, expected.1.to_owned()), "{method} {target} {body}: {}", answer.1);
    }
}

#[test]
fn a_block_without_components_says_so() {
    let world = World::default();
    let worker = worker(&world, &json!({"appId": "a"}));
    let lock = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":1}"#;
    for (method, target, body, code) in [
        ("GET", "/v1.0/state/s/k", "", "ERR_STATE_STORE_NOT_CONFIGURED"),
        ("POST", "/v1.0-alpha1/lock/s", lock, "ERR_LOCK_STORE_NOT_CONFIGURED"),
        ("GET", "/v1.0/configuration/s", "", "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        ("GET", "/v1.0/secrets/s/k", "", "ERR_SECRET_STORES_NOT_CONFIGURED"),
        ("POST", "/v1.0-alpha1/sequencer/s", r#"{"key":"k"}"#, "ERR_SEQUENCER_NOT_CONFIGURED"),
    ] {
        assert_eq!(error(&ask(&world, &worker, method, target, body)), (500, code.to_owned()), "{target}");
    }
}

#[test]
fn a_store_that_cannot_be_reached_or_does_not_answer() {
    let (world, worker) = start(&json!({}));
    let lock = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":1}"#;
    let requests = [
        ("GET", "/v1.0/state/gone/k", "", "ERR_STATE_GET"),
        ("POST", "/v1.0/state/gone", r#"[{"key":"k"}]"#, "ERR_STATE_SAVE"),
        ("DELETE", "/v1.0/state/gone/k", "", "ERR_STATE_DELETE"),
        (
            "POST",
            "/v1.0/state/gone/transaction",
            r#"{"operations":[{"operation":"delete","request":{"key":"k"}}]}"#,
            "ERR_STATE_TRANSACTION",
        ),
        ("POST", "/v1.0-alpha1/lock/gone", lock, "ERR_TRY_LOCK"),
        ("POST", "/v1.0-alpha1/unlock/gone", lock, "ERR_UNLOCK"),
        ("POST", "/v1.0-alpha1/lock/gone/keepalive", lock, "ERR_LOCK_KEEP_ALIVE"),
        ("GET", "/v1.0/configuration/gone?key=a", "", "ERR_CONFIGURATION_GET"),
        ("POST", "/v1.0-alpha1/configuration/gone", r#"{"items":[{"key":"a"}]}"#, "ERR_CONFIGURATION_WRITE"),
        ("POST", "/v1.0-alpha1/sequencer/gone", r#"{"key":"k","increment":"strong"}"#, "ERR_SEQUENCER_NEXT_ID"),
    ];
    for (method, target, body, code) in requests {
        let asked = begin(&world, &worker, request(method, target, &[], body));
        for block in ["state", "lock", "configuration", "sequencer"] {
            if let Some(server) = world.accept(&format!("runtime.{block}.gone")) {
                server.close("connection refused");
            }
        }
        world.run();
        let answer = asked.outcome().unwrap_or_else(|| {
            world.advance(Duration::from_secs(6));
            asked.outcome().expect("an answer")
        });
        assert_eq!(
            error(&(answer.status.as_u16(), text(&answer))),
            (503, code.to_owned()),
            "{target}: {}",
            text(&answer)
        );
    }
    // One that is silent: the deadline of the runtime.
    let (world, worker) = start(&json!({}));
    let asked = begin(&world, &worker, request("GET", "/v1.0/state/gone/k", &[], ""));
    let _silent = support::let_in(&world, "runtime.state.gone");
    world.advance(Duration::from_secs(6));
    let answer = asked.outcome().unwrap();
    assert_eq!(error(&(answer.status.as_u16(), text(&answer))), (504, "ERR_DEADLINE_EXCEEDED".to_owned()));
    assert!(text(&answer).contains("state component gone has not answered within 5s"), "{}", text(&answer));
}

#[test]
fn what_a_store_gives_never_becomes_a_header_of_its_own() {
    let (world, worker) = start(&json!({}));
    let asked = begin(&world, &worker, request("GET", "/v1.0/state/gone/k", &[], ""));
    let server = support::let_in(&world, "runtime.state.gone");
    let _ = server.received();
    let odd = "1\r\nx-more: 1";
    server.send(format!("*2\r\n$1\r\n7\r\n${}\r\n{odd}\r\n", odd.len()).as_bytes());
    world.run();
    let answer = asked.outcome().unwrap();
    assert_eq!((answer.status.as_u16(), text(&answer)), (200, "7".to_owned()));
    assert_eq!(header(&answer, "etag"), None);
}

#[test]
fn the_twins_of_what_dapr_lacks() {
    let (world, worker) = start(&json!({}));
    let next = |body: &str| ask(&world, &worker, "POST", "/v1.0-alpha1/sequencer/m", body).1;
    assert_eq!(next(r#"{"key": "k", "increment": "strong"}"#), r#"{"nextId":"1"}"#);
    assert_eq!(next(r#"{"key": "k", "increment": "STRONG"}"#), r#"{"nextId":"2"}"#);
    let lock = r#"{"resourceId":"r","lockOwner":"o","expiryInSeconds":10}"#;
    let keep_alive = || ask(&world, &worker, "POST", "/v1.0-alpha1/lock/m/keepalive", lock);
    assert_eq!(keep_alive(), (200, r#"{"status":1}"#.to_owned()));
    assert!(ask(&world, &worker, "POST", "/v1.0-alpha1/lock/m", lock).1.starts_with(r#"{"success":true"#));
    world.advance(Duration::from_secs(9));
    assert_eq!(keep_alive(), (200, r#"{"status":0}"#.to_owned()));
    world.advance(Duration::from_secs(9));
    assert!(ask(&world, &worker, "POST", "/v1.0-alpha1/lock/m", lock).1.starts_with(r#"{"success":false"#));

    let body = r#"{"items": [{"key": "a", "value": "1", "tags": {"t": "x"}}, {"key": "b", "value": "2"}]}"#;
    assert_eq!(ask(&world, &worker, "POST", "/v1.0-alpha1/configuration/m", body), (204, String::new()));
    let (code, read) = ask(&world, &worker, "GET", "/v1.0/configuration/m?key=a&key=none", "");
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!((code, &read["a"]["value"], &read["a"]["metadata"]["t"]), (200, &json!("1"), &json!("x")));
    assert_eq!(ask(&world, &worker, "DELETE", "/v1.0-alpha1/configuration/m?key=a", "").0, 204);
    assert_eq!(ask(&world, &worker, "GET", "/v1.0/configuration/m?key=a", "").0, 204);
}

#[test]
fn a_subscription_of_grpc_ends_over_http() {
    let (world, worker) = start(&json!({}));
    let stream = talk(&world, &worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    stream.send(&dapr::SubscribeConfigurationRequest {
        store_name: "m".into(),
        keys: vec!["a".into()],
        ..Default::default()
    });
    world.run();
    let id = stream.next::<dapr::SubscribeConfigurationResponse>().unwrap().id;
    let target = format!("/v1.0/configuration/m/{id}/unsubscribe");
    assert_eq!(ask(&world, &worker, "GET", &target, ""), (200, r#"{"ok":true}"#.to_owned()));
    assert_eq!(stream.status().unwrap().code(), Code::Ok);
    assert_eq!(ask(&world, &worker, "GET", &target, "").0, 404);
}

#[test]
fn what_may_not_be_called_is_not_there() {
    let rule = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol});
    let (world, worker) = start(
        &json!({"api": {"allowed": [rule("state", "http"), rule("lock", "grpc")], "denied": [rule("unlock", "")]}}),
    );
    assert_eq!(ask(&world, &worker, "GET", "/v1.0/state/m/k", "").0, 204);
    assert_eq!(ask(&world, &worker, "POST", "/v1.0-alpha1/lock/m", "{}"), (404, "404 page not found\n".to_owned()));
    assert_eq!(ask(&world, &worker, "GET", "/v1.0/healthz", "").0, 204);
    let refused = (Code::Unimplemented, "requested endpoint is not available".to_owned());
    let said = |path: String, request: &dyn Fn(&str) -> (Code, String)| request(&path);
    let by_grpc = |path: &str| status(&call(&world, &worker, path, &dapr::GetStateRequest::default()));
    for method in [
        format!("{DAPR}/GetState"),
        format!("{LAYOTTO}/GetState"),
        format!("{DAPR}/UnlockAlpha1"),
        format!("{LAYOTTO}/Unlock"),
    ] {
        assert_eq!(said(method.clone(), &by_grpc), refused, "{method}");
    }
    assert_eq!(by_grpc(&format!("{DAPR}/PublishEvent")), refused, "what is not served is not allowed either");
    let request =
        layotto::TryLockRequest { store_name: "m".into(), resource_id: "r".into(), lock_owner: "o".into(), expire: 5 };
    assert!(
        message::<layotto::TryLockResponse>(&call(&world, &worker, &format!("{LAYOTTO}/TryLock"), &request)).success
    );
    let stream = talk(&world, &worker, &format!("{DAPR}/SubscribeConfiguration")).unwrap();
    stream.send(&dapr::SubscribeConfigurationRequest::default());
    assert_eq!(stream.status().unwrap().code(), Code::Unimplemented);
}

#[test]
fn pages_of_other_origins() {
    let (world, worker) = start(&json!({"apiToken": "t", "api": {"allowedOrigins": ["https://*.example"]}}));
    let asked = |method: &str, headers: &[(&'static str, &str)]| {
        begin(&world, &worker, request(method, "/v1.0/metadata", headers, "")).outcome().unwrap()
    };
    let good = ("origin", "https://a.example");
    let preflight = asked("OPTIONS", &[good, ("access-control-request-method", "PUT")]);
    assert_eq!(preflight.status, 200, "a browser asks without the token");
    assert_eq!(header(&preflight, "access-control-allow-origin"), Some("https://a.example"));
    let refused = asked("GET", &[good]);
    assert_eq!(refused.status, 401, "and the request itself needs it");
    assert_eq!(
        header(&refused, "access-control-allow-origin"),
        Some("https://a.example"),
        "or the page would not learn why"
    );
    let bad = asked("OPTIONS", &[("origin", "https://evil.test"), ("access-control-request-method", "PUT")]);
    assert_eq!((bad.status.as_u16(), header(&bad, "access-control-allow-origin")), (200, None));
}

#[test]
fn the_description_is_served() {
    let (world, worker) = start(&json!({}));
    let (code, text) = ask(&world, &worker, "GET", "/v1.0/openapi.json", "");
    let description: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &description), (200, &runtime_api::api::openapi()));
    assert_eq!(description["openapi"], "3.1.0");
}

#[test]
fn a_full_worker_refuses_a_body() {
    let (world, worker) = start(&json!({"limits": {"maxRequestBytes": 1 << 20, "maxMemoryBytes": 64 << 20}}));
    let taken = || {
        let mut body = worker.body();
        let wanted = worker.take(&mut body, vec![b' '; 1 << 20], false);
        (body, wanted)
    };
    let held: Vec<_> = std::iter::repeat_with(taken).take_while(|(_, wanted)| *wanted).collect();
    assert!(held.len() > 10, "{}", held.len());
    let (full, _) = taken();
    let asking = Rc::clone(&worker);
    let asked = request("POST", "/v1.0/state/m", &[], "");
    let answer = world.start(async move { asking.http_with(asked, full).await }).outcome().unwrap();
    assert_eq!(error(&(answer.status.as_u16(), text(&answer))), (503, "ERR_MEMORY_FULL".to_owned()));
    drop(held);
    assert_eq!(ask(&world, &worker, "POST", "/v1.0/state/m", "[]").0, 204);
}
