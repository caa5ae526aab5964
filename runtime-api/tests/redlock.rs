//! Redlock with five servers: who decides, what is given back, and what slow servers and those with clocks of their own
//! do to a lock.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test ends by a panic

mod support;

use std::rc::Rc;
use std::time::Duration;

use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use runtime_api::Runtime;
use runtime_api::api::call::Reply;
use runtime_api::testing::{Connection, Started, World, call, worker};
use serde_json::json;
use support::{LAYOTTO, let_in, message, received, resp, status};
use tonic::Code;

const MS: Duration = Duration::from_millis(1);
/// How long locks are asked for, and a tenth of it.
const EXPIRY: Duration = Duration::from_secs(3);
const TENTH: Duration = Duration::from_millis(300);

const DONE: i32 = 0;
const MISSING: i32 = 1;
const OTHERS: i32 = 2;

/// A worker and five servers that are connected.
struct Five {
    world: World,
    worker: Rc<Runtime>,
    servers: Vec<Connection>,
}

impl Five {
    /// The servers have just been asked by the first call, which this gives.
    fn asked(first: fn(&Self) -> Started<Reply>) -> (Self, Started<Reply>) {
        let world = World::default();
        let metadata = json!({"redisHosts": "a:1,b:2,c:3,d:4,e:5"});
        let component = json!({"name": "l", "type": "lock.redis.cluster", "metadata": metadata});
        let worker = worker(&world, &json!({"appId": "a", "components": [component]}));
        let mut five = Self { world, worker, servers: Vec::new() };
        let started = first(&five);
        let cluster = |number| if number == 1 { "runtime.lock.l".into() } else { format!("runtime.lock.l.{number}") };
        five.servers = (1..=5).map(|number| let_in(&five.world, &cluster(number))).collect();
        (five, started)
    }

    fn try_lock(&self, owner: &str) -> Started<Reply> {
        let request = dapr::TryLockRequest {
            store_name: "l".into(),
            resource_id: "r".into(),
            lock_owner: owner.into(),
            expiry_in_seconds: 3,
        };
        call(&self.world, &self.worker, &format!("{LAYOTTO}/TryLock"), &request)
    }

    fn unlock(&self) -> Started<Reply> {
        let request = dapr::UnlockRequest { store_name: "l".into(), resource_id: "r".into(), lock_owner: "o".into() };
        call(&self.world, &self.worker, &format!("{LAYOTTO}/Unlock"), &request)
    }

    fn keep_alive(&self) -> Started<Reply> {
        let request = layotto::LockKeepAliveRequest {
            store_name: "l".into(),
            resource_id: "r".into(),
            lock_owner: "o".into(),
            expire: 3,
        };
        call(&self.world, &self.worker, &format!("{LAYOTTO}/LockKeepAlive"), &request)
    }

    /// Has the servers answer, the first with the first reply and so on. An empty one is none.
    fn answer(&self, replies: &[&str]) {
        for (server, reply) in self.servers.iter().zip(replies).filter(|(_, reply)| !reply.is_empty()) {
            server.send(format!("{reply}\r\n").as_bytes());
        }
    }

    /// Forgets what the servers were sent.
    fn forget(&self) {
        self.servers.iter().for_each(|server| drop(received(server)));
    }

    /// The numbers of the servers that were asked to release the lock of the owner since the last time.
    fn released(&self, owner: &str) -> Vec<usize> {
        let release = |server: &Connection| {
            let sent = received(server);
            assert!(sent.is_empty() || sent.contains("'DEL'") && sent.ends_with(&format!("\r\n{owner}\r\n")), "{sent}");
            !sent.is_empty()
        };
        (0..5).filter(|number| release(&self.servers[*number])).collect()
    }
}

fn try_as_o(five: &Five) -> Started<Reply> {
    five.try_lock("o")
}

#[track_caller]
fn taken(started: &Started<Reply>) -> bool {
    message::<dapr::TryLockResponse>(started).success
}

#[track_caller]
fn unavailable(started: &Started<Reply>, end: &str) {
    let (code, text) = status(started);
    assert_eq!(code, Code::Unavailable);
    assert!(text.ends_with(end), "{text}");
}

/// All ways in which five can answer with one of these.
fn all_of<'a>(kinds: &[&'a str]) -> Vec<[&'a str; 5]> {
    let mut all = vec![[""; 5]];
    for place in 0..5 {
        let with = |answers: [&'a str; 5]| {
            kinds.iter().map(move |kind| {
                let mut next = answers;
                next[place] = kind;
                next
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    all
}

fn count(answers: &[&str; 5], kind: &str) -> usize {
    answers.iter().filter(|answer| **answer == kind).count()
}

#[test]
fn three_of_five_decide_and_what_is_not_enough_is_given_back() {
    const TAKEN: &str = "+OK";
    const HELD: &str = "$-1";
    const FAILED: &str = "-ERR no";
    for answers in all_of(&[TAKEN, HELD, FAILED]) {
        let (five, started) = Five::asked(try_as_o);
        for server in &five.servers {
            assert_eq!(received(server), resp(&["SET", "lock|||a||r", "o", "NX", "EX", "3"]));
        }
        five.answer(&answers);
        let enough = count(&answers, TAKEN) >= 3;
        let released = five.released("o");
        let expected: Vec<usize> = (0..5).filter(|number| !enough && answers[*number] == TAKEN).collect();
        assert_eq!(released, expected, "{answers:?}");
        five.answer(&[0, 1, 2, 3, 4].map(|number| if released.contains(&number) { ":1" } else { "" }));
        if count(&answers, FAILED) >= 3 {
            assert_eq!(status(&started).0, Code::Unavailable, "{answers:?}");
        } else {
            assert_eq!(taken(&started), enough, "{answers:?}");
        }
    }
}

#[test]
fn the_third_of_five_is_waited_for_and_no_other() {
    let (five, started) = Five::asked(try_as_o);
    five.answer(&["", "+OK", "", "", "+OK"]);
    assert!(started.outcome().is_none());
    five.answer(&["", "", "+OK"]);
    assert!(taken(&started));
    let (five, started) = Five::asked(try_as_o);
    five.forget();
    five.answer(&["", "$-1", "", "+OK", "$-1"]);
    assert!(started.outcome().is_none(), "two more could take it");
    five.answer(&["$-1"]);
    assert_eq!(five.released("o"), [3], "none of the others can make it three");
    five.answer(&["", "", "", ":1"]);
    assert!(!taken(&started));
    five.answer(&["", "", "+OK"]);
    assert_eq!(five.released("o"), [2], "and one that says so later gives it back too");
}

#[test]
fn two_who_share_the_servers_get_nothing_and_leave_nothing() {
    let (five, first) = Five::asked(try_as_o);
    let second = five.try_lock("p");
    five.forget();
    five.answer(&["+OK", "+OK", "$-1", "$-1", "-ERR no"]);
    assert_eq!(five.released("o"), [0, 1]);
    five.answer(&["$-1", "$-1", "+OK", "+OK", "-ERR no"]);
    assert_eq!(five.released("p"), [2, 3]);
    five.answer(&[":1", ":1", ":1", ":1"]);
    assert!(!taken(&first) && !taken(&second));
}

#[test]
fn slow_servers_are_waited_for_a_tenth_of_the_time() {
    let (five, started) = Five::asked(try_as_o);
    five.forget();
    five.answer(&["+OK", "", "+OK"]);
    five.world.advance(TENTH.saturating_sub(MS));
    assert_eq!(five.released("o"), [0; 0]);
    assert!(started.outcome().is_none());
    five.world.advance(MS);
    assert_eq!(five.released("o"), [0, 2]);
    five.answer(&[":1", "", ":1"]);
    unavailable(&started, "3 of 5 redis servers must agree, and too few do: 3 did not answer in time");

    // A slow one gives back what it has taken, for as long as it would hold it.
    five.answer(&["", "$-1"]);
    five.world.advance(EXPIRY.saturating_sub(TENTH + MS));
    five.answer(&["", "", "", "+OK"]);
    assert_eq!(five.released("o"), [3]);
    five.world.advance(MS);
    five.answer(&["", "", "", "", "+OK"]);
    assert_eq!(five.released("o"), [0; 0], "it has ended there by itself");
}

#[test]
fn a_lock_that_comes_in_the_last_moment_is_held() {
    let (five, started) = Five::asked(try_as_o);
    five.answer(&["+OK", "+OK"]);
    five.world.advance(TENTH.saturating_sub(MS));
    five.answer(&["", "", "", "", "+OK"]);
    assert!(taken(&started));
    five.forget();
    five.world.advance(EXPIRY);
    assert_eq!(five.released("o"), [0; 0]);
}

#[test]
fn slow_servers_that_could_not_change_it_are_not_waited_for() {
    let (five, started) = Five::asked(try_as_o);
    five.forget();
    five.answer(&["$-1", "$-1", "$-1"]);
    assert!(!taken(&started), "held by another, be the last two as they may");
    five.answer(&["", "", "", "+OK", "$-1"]);
    assert_eq!(five.released("o"), [3]);
}

#[test]
fn a_release_that_no_server_answers_holds_nobody_up() {
    let (five, started) = Five::asked(try_as_o);
    five.forget();
    five.answer(&["+OK", "$-1", "$-1", "$-1", "$-1"]);
    assert_eq!(five.released("o"), [0]);
    five.world.advance(Duration::from_millis(999));
    assert!(started.outcome().is_none());
    five.world.advance(MS);
    assert!(!taken(&started));
}

#[test]
fn failures_are_told_by_the_numbers_of_the_servers() {
    let (five, started) = Five::asked(try_as_o);
    five.answer(&["-ERR one", "$-1", "-ERR three", "-ERR four", "$-1"]);
    unavailable(
        &started,
        "lock store l: 3 of 5 redis servers must agree, and too few do: server 1: redis says: ERR one; server 3: redis \
         says: ERR three; server 4: redis says: ERR four",
    );
}

#[test]
fn a_server_whose_clock_runs_ahead_changes_nothing() {
    let (five, started) = Five::asked(try_as_o);
    five.answer(&["+OK"; 5]);
    assert!(taken(&started));
    // On the last the lock has ended before its time: another gets it there, and there alone.
    let other = five.try_lock("p");
    five.forget();
    five.answer(&["$-1", "$-1", "$-1", "$-1", "+OK"]);
    assert_eq!(five.released("p"), [4]);
    five.answer(&["", "", "", "", ":1"]);
    assert!(!taken(&other));
    let lengthened = five.keep_alive();
    five.answer(&[":-1", ":1", ":1", ":1"]);
    assert_eq!(message::<layotto::LockKeepAliveResponse>(&lengthened).status, DONE);
    let released = five.unlock();
    five.answer(&["", ":1", ":1", ":1", ":-1"]);
    assert_eq!(message::<dapr::UnlockResponse>(&released).status, DONE);
}

/// How many of the servers answered what: done, missing, others; the rest failed.
fn shares() -> Vec<[usize; 3]> {
    let all = (0..6).flat_map(|done| (0..6).flat_map(move |missing| (0..6).map(move |others| [done, missing, others])));
    all.filter(|counts| counts.iter().sum::<usize>() <= 5).collect()
}

fn replies([done, missing, others]: [usize; 3]) -> Vec<&'static str> {
    let failed = 5 - done - missing - others;
    [vec!["-ERR no"; failed], vec![":1"; done], vec![":-1"; missing], vec![":-2"; others]].concat()
}

/// Whose a lock is that the owner does not hold.
fn not_held(missing: usize, others: usize) -> i32 {
    if others > 0 && others >= missing { OTHERS } else { MISSING }
}

#[test]
fn a_release_is_one_where_any_server_had_the_lock() {
    for share in shares() {
        let [done, missing, others] = share;
        let (five, started) = Five::asked(Five::unlock);
        five.answer(&replies(share));
        if done + missing + others < 3 {
            assert_eq!(status(&started).0, Code::Unavailable, "{share:?}");
            continue;
        }
        let expected = if done > 0 { DONE } else { not_held(missing, others) };
        assert_eq!(message::<dapr::UnlockResponse>(&started).status, expected, "{share:?}");
    }
}

#[test]
fn a_lock_is_lengthened_where_three_have_done_so() {
    for share in shares() {
        let [done, missing, others] = share;
        let (five, started) = Five::asked(Five::keep_alive);
        five.answer(&replies(share));
        let known = done + missing + others;
        if done >= 3 {
            assert_eq!(message::<layotto::LockKeepAliveResponse>(&started).status, DONE, "{share:?}");
        } else if known < 3 {
            unavailable(&started, "redis says: ERR no");
        } else if done + 5 - known >= 3 {
            unavailable(&started, &format!("only {done} of 5 redis servers have lengthened the lock"));
        } else {
            let status = message::<layotto::LockKeepAliveResponse>(&started).status;
            assert_eq!(status, not_held(missing, others), "{share:?}");
        }
    }
}

#[test]
fn slow_servers_may_have_lengthened_a_lock() {
    let (five, started) = Five::asked(Five::keep_alive);
    five.answer(&[":1", ":1", ":-1"]);
    five.world.advance(TENTH.saturating_sub(MS));
    assert!(started.outcome().is_none());
    five.world.advance(MS);
    unavailable(&started, "only 2 of 5 redis servers have lengthened the lock");

    let (five, started) = Five::asked(Five::keep_alive);
    five.answer(&[":1", ":-1"]);
    five.world.advance(TENTH);
    unavailable(&started, "too few do: 3 did not answer in time");

    let (five, started) = Five::asked(Five::keep_alive);
    five.answer(&[":-2", ":-2", ":-1", ":-1"]);
    five.world.advance(TENTH);
    assert_eq!(message::<layotto::LockKeepAliveResponse>(&started).status, OTHERS, "one alone has not lengthened it");
}

#[test]
fn a_release_waits_a_second_for_slow_servers() {
    let (five, started) = Five::asked(Five::unlock);
    five.answer(&[":-1", ":-1", ":1"]);
    five.world.advance(Duration::from_millis(999));
    assert!(started.outcome().is_none());
    five.world.advance(MS);
    assert_eq!(message::<dapr::UnlockResponse>(&started).status, DONE);

    let (five, started) = Five::asked(Five::unlock);
    five.answer(&[":1", "-ERR no", ":1"]);
    five.world.advance(Duration::from_secs(1));
    unavailable(&started, "too few do: server 2: redis says: ERR no; 2 did not answer in time");
}
