//! What the streams of a connection are for: publishers say what goes to which subscriber, and are told what came of it.

use alloc::vec::Vec;
use core::mem::take;

use super::Connection;
use crate::frame::{self, Code, MAX_PAYLOAD};
use crate::message::{self, FromBus, MAX_UNACKNOWLEDGED, ToBus};
use crate::queue::Queue;
use crate::stream::{Publisher, Role, Subscriber};

/// How many bytes of replies wait for a publisher that does not read. One that comes after it may send again.
const MAX_REPLIES: usize = 1024 * 1024;

impl Connection {
    /// A stream turns out to be a publisher's.
    pub(super) fn become_publisher(&mut self, at: usize, id: u32, content: &[u8]) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        stream.role = Role::Publisher(Publisher::default());
        self.publishers.push(id);
        frame::write(&mut self.out, frame::HEADERS, frame::END_HEADERS, id, &frame::response(None));
        self.reply(id, FromBus::Hello { connection: self.number });
        self.publish(at, id, content);
    }

    /// A stream has said which subscription it is for.
    pub(super) fn become_subscriber(&mut self, at: usize, id: u32, subscription: u64) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        stream.role = Role::Subscriber(Subscriber::new(subscription));
        frame::write(&mut self.out, frame::HEADERS, frame::END_HEADERS, id, &frame::response(Some(self.number)));
        match self.subscriptions.binary_search_by_key(&subscription, |(subscription, _)| *subscription) {
            Ok(place) => {
                let replaced = self.subscriptions.get_mut(place).map(|(_, stream)| core::mem::replace(stream, id));
                if let Some(replaced) = replaced.and_then(|replaced| self.find(replaced)) {
                    self.reset(replaced, Code::Cancel);
                }
            }
            Err(place) => self.subscriptions.insert(place, (subscription, id)),
        }
    }

    /// Takes the next bytes of a publisher.
    pub(super) fn publish(&mut self, at: usize, id: u32, content: &[u8]) {
        let Some(publisher) = self.publisher_at(at) else { return };
        let mut joined = take(&mut publisher.partial);
        let mut rest = if joined.is_empty() {
            content
        } else {
            joined.extend_from_slice(content);
            &joined
        };
        let read = loop {
            match message::unframe(rest) {
                Ok(Some((message, after))) => {
                    rest = after;
                    let Ok(message) = ToBus::decode(message) else { break false };
                    self.obey(id, message);
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        // Where it is now: the message may have ended other streams.
        let Some(at) = self.find(id) else { return };
        if !read {
            return self.reset(at, Code::Protocol);
        }
        let left = rest.len();
        let partial = if joined.is_empty() || left == 0 {
            rest.to_vec()
        } else {
            joined.drain(..joined.len() - left);
            joined
        };
        if let Some(publisher) = self.publisher_at(at) {
            publisher.partial = partial;
        }
    }

    fn obey(&mut self, publisher: u32, message: ToBus<'_>) {
        let (subscription, sequence, bytes, ending) = match message {
            ToBus::Open => return,
            ToBus::Data { subscription, sequence, bytes } => (subscription, sequence, bytes, false),
            ToBus::End { subscription, sequence } => (subscription, sequence, &[][..], true),
        };
        let Some(at) = self.subscriber(subscription) else {
            return self.reply(publisher, FromBus::Unknown { subscription });
        };
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Role::Subscriber(subscriber) = &mut stream.role else { return };
        subscriber.publisher = publisher;
        if sequence <= subscriber.accepted {
            if sequence <= subscriber.written {
                self.acknowledge(at);
            }
            return;
        }
        let too_much = subscriber.queue.len().max(subscriber.ends.len()) > MAX_UNACKNOWLEDGED;
        if sequence - 1 != subscriber.accepted || subscriber.ending || (too_much && !ending) {
            return self.reset(at, Code::EnhanceYourCalm);
        }
        subscriber.accepted = sequence;
        subscriber.ending = ending;
        subscriber.length += bytes.len() as u64;
        subscriber.ends.push(subscriber.length);
        // As a rule nothing waits, and the windows are wide.
        let sent = if subscriber.queue.is_empty() {
            send(&mut self.out, stream.id, [&mut stream.window, &mut self.window], bytes)
        } else {
            0
        };
        subscriber.queue.push(bytes.get(sent..).unwrap_or_default());
        self.settle(at);
    }

    /// Sends what waits for a stream, as far as the windows let it and no more than `limit` bytes. Says whether there
    /// was anything to send.
    pub(super) fn pump(&mut self, at: usize, limit: usize) -> bool {
        let Some(stream) = self.streams.get_mut(at) else { return false };
        let queue: &mut Queue = match &mut stream.role {
            Role::Unnamed(_) => return false,
            Role::Publisher(publisher) => &mut publisher.replies,
            Role::Subscriber(subscriber) => &mut subscriber.queue,
        };
        let waiting = queue.waiting();
        let next = waiting.get(..limit).unwrap_or(waiting);
        let sent = send(&mut self.out, stream.id, [&mut stream.window, &mut self.window], next);
        queue.take(sent);
        if sent > 0 {
            self.settle(at);
        }
        sent > 0
    }

    /// Sends what waits for any stream: the publishers first, which keep nobody waiting for long, then the subscribers
    /// a frame each in turn, beginning where the window of the connection ran out the last time.
    pub(super) fn pump_all(&mut self) {
        let mut next = 0;
        while let Some(&publisher) = self.publishers.get(next) {
            next += 1;
            if let Some(at) = self.find(publisher) {
                self.pump(at, usize::MAX);
            }
        }
        let mut at = self.streams.partition_point(|stream| stream.id <= self.served);
        let mut idle = 0;
        while self.window > 0 && idle < self.streams.len() {
            let Some(id) = self.streams.get(at).map(|stream| stream.id) else {
                at = 0;
                continue;
            };
            if self.pump(at, MAX_PAYLOAD) {
                self.served = id;
                idle = 0;
            } else {
                idle += 1;
            }
            // The stream may have ended by this.
            if self.streams.get(at).is_some_and(|stream| stream.id == id) {
                at += 1;
            }
        }
    }

    /// Acknowledges what a subscriber has got, and ends its stream after the end.
    fn settle(&mut self, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Role::Subscriber(subscriber) = &mut stream.role else { return };
        if !subscriber.settle() {
            return;
        }
        if !subscriber.ending || !subscriber.ends.is_empty() {
            return self.acknowledge(at);
        }
        let (subscription, sequence) = (subscriber.subscription, subscriber.written);
        let publisher = subscriber.publisher;
        frame::write(&mut self.out, frame::DATA, frame::END_STREAM, stream.id, &[]);
        self.forget(at, false);
        self.reply(publisher, FromBus::Ack { subscription, sequence });
    }

    /// Tells a publisher something; if its stream is gone, the newest.
    pub(super) fn reply(&mut self, publisher: u32, message: FromBus) {
        if let Some(publisher) = self.publisher_or_newest(publisher) {
            message.encode(&mut publisher.fresh);
        }
    }

    /// Has all that a subscriber has got acknowledged, once for however many messages there are by then.
    pub(super) fn acknowledge(&mut self, at: usize) {
        let Some(subscriber) = self.subscriber_at(at) else { return };
        if subscriber.due {
            return;
        }
        let (publisher, subscription) = (subscriber.publisher, subscriber.subscription);
        let Some(publisher) = self.publisher_or_newest(publisher) else { return };
        publisher.due.push(subscription);
        if let Some(subscriber) = self.subscriber_at(at) {
            subscriber.due = true;
        }
    }

    /// Sends what the last frame has given rise to: to each publisher one gRPC frame. While one waits for its window
    /// acknowledgements are held back, so that they do not pile up.
    pub(super) fn send_replies(&mut self) {
        let mut next = 0;
        while let Some(at) = self.publishers.get(next).and_then(|publisher| self.find(*publisher)) {
            next += 1;
            let Some(publisher) = self.publisher_at(at) else { continue };
            let mut messages = take(&mut publisher.fresh);
            if publisher.replies.is_empty() {
                for subscription in take(&mut publisher.due) {
                    let Some(subscriber) = self.subscriber(subscription).and_then(|at| self.subscriber_at(at)) else {
                        continue;
                    };
                    // Not that of another subscriber, whose place this one has taken.
                    if take(&mut subscriber.due) {
                        FromBus::Ack { subscription, sequence: subscriber.written }.encode(&mut messages);
                    }
                }
            }
            let Some(publisher) = self.publisher_at(at).filter(|_| !messages.is_empty()) else { continue };
            publisher.replies.push(&[0]);
            publisher.replies.push(&u32::try_from(messages.len()).unwrap_or(u32::MAX).to_be_bytes());
            publisher.replies.push(&messages);
            if publisher.replies.len() > MAX_REPLIES {
                self.reset(at, Code::EnhanceYourCalm);
                next -= 1;
            } else {
                self.pump(at, usize::MAX);
            }
        }
    }
}

/// Writes DATA as far as the windows of the stream and the connection let it; returns how many bytes.
fn send(out: &mut Vec<u8>, stream: u32, windows: [&mut i64; 2], bytes: &[u8]) -> usize {
    let open = windows.iter().map(|window| **window).min().unwrap_or(0);
    let allowed = usize::try_from(open).unwrap_or(0);
    let bytes = bytes.get(..allowed).unwrap_or(bytes);
    for part in bytes.chunks(MAX_PAYLOAD) {
        frame::write(out, frame::DATA, 0, stream, part);
    }
    for window in windows {
        *window -= i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    }
    bytes.len()
}
