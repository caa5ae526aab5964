//! Subscriptions that must hear of changes: a marker is written all the time, and each stream hears of it within ten
//! seconds while its store is in order, or has ended with a status.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use envoy_runtime_proto::dapr::runtime::v1 as dapr;
use envoy_runtime_proto::spec::runtime::v1 as layotto;
use prost::Message;
use rand::RngExt;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::client::{Caller, End, Failed, Incoming, Next, WINDOW, connect};
use super::ground::{Ground, PLACES, Place};
use super::kind::Kind;
use super::record::Column;
use crate::client::Dialect;
use crate::wire::frame;

const MARKER: &str = "marker";
/// The longest that a change may take to come.
const SILENCE: Duration = Duration::from_secs(10);

/// The markers that were written: number and time, of late.
#[derive(Debug, Default)]
pub(super) struct Markers([Mutex<VecDeque<(u64, Instant)>>; 3]);

impl Markers {
    /// The first marker after `seen` that was written after `from`: its number, and when it was written.
    fn first_unseen(&self, place: Place, seen: u64, from: Instant) -> Option<(u64, Instant)> {
        let markers = self.0[place as usize].lock().unwrap();
        markers.iter().find(|(number, at)| *number > seen && *at > from).copied()
    }
}

/// `SaveConfiguration` of one item.
pub(super) async fn write(caller: &mut Caller, place: Place, key: &str, content: String) -> Result<(), Failed> {
    let item = layotto::ConfigurationItem { key: key.into(), content, ..Default::default() };
    let request =
        layotto::SaveConfigurationRequest { store_name: place.name().into(), items: vec![item], ..Default::default() };
    caller.unary("SaveConfiguration", &request, Some(Duration::from_secs(5))).await
}

/// Writes markers, through the listener that is not reloaded.
pub(super) async fn writer(ground: Arc<Ground>, markers: Arc<Markers>, place: Place) {
    let mut caller = Caller::new(&ground, Kind::Subscriptions, Dialect::Layotto);
    let mut failing: Option<Instant> = None;
    for number in 1_u64.. {
        if !ground.goes_on().await {
            break;
        }
        match write(&mut caller, place, MARKER, number.to_string()).await {
            Ok(()) => {
                failing = None;
                let mut markers = markers.0[place as usize].lock().unwrap();
                markers.push_back((number, Instant::now()));
                if markers.len() > 200 {
                    markers.pop_front();
                }
            }
            Err(Failed::Refused(code, text)) => {
                ground.record.find(
                    Kind::Subscriptions,
                    "a good write was refused",
                    format!("{}: {code:?} {text}", place.name()),
                );
            }
            Err(Failed::Unknown) => {
                let since = *failing.get_or_insert_with(Instant::now);
                let calm = ground.calm_since(place).map(|calm| calm.max(since).elapsed());
                if calm.is_some_and(|calm| calm > SILENCE + ground.margin()) {
                    let example = format!("{}: for {:.1?}", place.name(), since.elapsed());
                    ground.record.find(Kind::Subscriptions, "a store that is in order takes no writes", example);
                    failing = None;
                }
            }
        }
        ground.pause(Duration::from_millis(700)).await;
    }
}

/// Subscribes, listens, and subscribes again when the stream has ended.
pub(super) async fn subscriber(ground: Arc<Ground>, markers: Arc<Markers>, number: usize) {
    let mut random = ground.random(Kind::Subscriptions, number);
    let place = PLACES[number % PLACES.len()];
    let dialect = Dialect::ALL[number / PLACES.len() % 2];
    while ground.goes_on().await {
        let Some(connection) = connect(&ground, Kind::Subscriptions, ground.port(dialect), WINDOW).await else {
            continue;
        };
        let (path, body) = request(place, dialect);
        let Ok(mut call) = connection.begin(&path, &[]).await else { continue };
        call.send(body, dialect == Dialect::Dapr);
        let start = Instant::now();
        // Some are short, so that there is always one that begins.
        let life = Duration::from_secs(if random.random_bool(0.3) { random.random_range(1..10) } else { 100_000 });
        let end = listen(&ground, &markers, place, dialect, &mut call.incoming, life).await;
        let took = start.elapsed();
        let reload = ground.since_reload();
        let what = format!("{} by {dialect:?}, after {took:.1?}, since a reload {reload:.1?}", place.name());
        let find = |finding: &str, more: &str| {
            ground.record.find(Kind::Subscriptions, finding, format!("{what}: {more}"));
        };
        let column = match end {
            None => Column::Left,
            Some(End::Status { code: Code::Ok, .. }) => {
                find("a subscription ended with OK that its app had not ended", "");
                Column::Ok
            }
            Some(End::Status { code, text, .. }) => {
                ground.record.text(code, &text);
                match code {
                    Code::Unavailable => Column::Unavailable,
                    Code::ResourceExhausted => Column::Exhausted,
                    _ => {
                        find(&format!("a subscription ended with {code:?}"), &text);
                        Column::Odd
                    }
                }
            }
            Some(End::Open) => Column::Odd, // told already
            Some(End::Lost | End::Reset(_)) if ground.drains() => Column::Lost,
            Some(End::Lost) => {
                find("a connection was lost", "");
                Column::Lost
            }
            Some(End::Reset(reason)) => {
                find("a subscription was reset", &format!("{reason:?}"));
                Column::Odd
            }
            Some(other) => {
                find("a subscription ended in a way that is not gRPC", &format!("{other:?}"));
                Column::Odd
            }
        };
        ground.record.count(Kind::Subscriptions, column, took);
        ground.pause(Duration::from_millis(random.random_range(0..500))).await;
    }
}

fn request(place: Place, dialect: Dialect) -> (String, Bytes) {
    let (store_name, keys) = (place.name().to_owned(), vec![MARKER.to_owned()]);
    let body = match dialect {
        Dialect::Dapr => dapr::SubscribeConfigurationRequest { store_name, keys, ..Default::default() }.encode_to_vec(),
        Dialect::Layotto => {
            layotto::SubscribeConfigurationRequest { store_name, keys, ..Default::default() }.encode_to_vec()
        }
    };
    (format!("/{}/SubscribeConfiguration", dialect.service()), frame(&body))
}

/// How the stream ended; `None` if that was for us to do.
async fn listen(
    ground: &Ground,
    markers: &Markers,
    place: Place,
    dialect: Dialect,
    incoming: &mut Incoming,
    life: Duration,
) -> Option<End> {
    let start = Instant::now();
    let mut seen = 0;
    loop {
        match timeout(Duration::from_millis(300), incoming.next()).await {
            Ok(Next::Message(message)) => {
                for number in numbers(dialect, &message) {
                    if number < seen {
                        let example = format!("{} by {dialect:?}: {number} after {seen}", place.name());
                        ground.record.find(Kind::Subscriptions, "an older change came after a newer", example);
                    }
                    seen = seen.max(number);
                }
            }
            Ok(Next::End(end)) => return Some(end),
            Err(_) => {}
        }
        // It is not said when a subscription is in force: soon, while the store is in order.
        let margin = ground.margin();
        let in_force = start + margin + Duration::from_secs(2);
        if let Some(calm) = ground.calm_since(place)
            && let Some((number, at)) = markers.first_unseen(place, seen, in_force)
            && at.max(calm).elapsed() > SILENCE + margin
        {
            let example = format!(
                "{} by {dialect:?}: the change {number} of {:.1?} ago has not come, {seen} was the last; the store has been in order for \
                 {:.1?}, the stream is {:.1?} old",
                place.name(),
                at.elapsed(),
                calm.elapsed(),
                start.elapsed()
            );
            ground.record.find(Kind::Subscriptions, "a stream is silent", example);
            return Some(End::Open);
        }
        if start.elapsed() > life || Instant::now() > ground.end {
            return None;
        }
    }
}

fn numbers(dialect: Dialect, message: &[u8]) -> Vec<u64> {
    let texts: Vec<String> = match dialect {
        Dialect::Dapr => dapr::SubscribeConfigurationResponse::decode(message)
            .map(|message| message.items.into_values().map(|item| item.value).collect())
            .unwrap_or_default(),
        Dialect::Layotto => layotto::SubscribeConfigurationResponse::decode(message)
            .map(|message| message.items.into_iter().map(|item| item.content).collect())
            .unwrap_or_default(),
    };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
