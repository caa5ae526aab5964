//! What the streams of a connection are for: those of apps are handed to a publisher, which says what they get.

use alloc::vec::Vec;
use core::mem::{replace, take};

use super::{Connection, DEFAULT_WINDOW, PUBLISHER_WINDOW};
use crate::frame::{self, Code, MAX_PAYLOAD};
use crate::message::{self, FromBus, MAX_UNACKNOWLEDGED, ToBus};
use crate::stream::{App, Publisher, Role, Service};

/// How many bytes wait for a publisher that does not read. Besides what apps send, which the windows bound, these are
/// small messages.
const MAX_REPLIES: usize = 64 * 1024 * 1024;

/// A publisher that says nothing for so many ticks has trapped: it beats once in two.
const MOST_SILENT: u32 = 6;

/// For how many ticks a stream waits for a publisher.
const MOST_AWAITED: u32 = 6;

/// For how many ticks a publisher is asked for after one went silent. Envoy makes no new VM in the second after a trap.
const MOST_BEREAVED: u32 = 30;

/// The publisher is told what was written when it comes to so much: else each small event would cost another entry into
/// its VM.
const TOLD_AT_ONCE: usize = MAX_UNACKNOWLEDGED / 4;

const LOST: &str = "the stream to the runtime was lost; subscribe again";
const NOT_TAKEN: &str = "the runtime filter did not take up the stream in time; subscribe again";
const TWICE: &str = "this publisher has a link on this connection";

impl Connection {
    /// A tick of the worker. What it gives rise to is written with the next answer of [`Connection::receive`].
    pub fn tick(&mut self) {
        self.bereaved = self.bereaved.saturating_sub(1);
        let (mut silent, mut awaiting) = (Vec::new(), Vec::new());
        for stream in &mut self.streams {
            match &mut stream.role {
                Role::Publisher(publisher) => {
                    publisher.silent += 1;
                    if publisher.silent > MOST_SILENT {
                        silent.push(stream.id);
                    }
                }
                Role::App(App { service: Service::Awaited { ticks, .. }, .. }) => {
                    *ticks += 1;
                    if *ticks > MOST_AWAITED {
                        awaiting.push(stream.id);
                    }
                }
                Role::App(_) => {}
            }
        }
        for id in silent {
            if let Some(at) = self.find(id) {
                self.bereaved = MOST_BEREAVED;
                self.reset(at, Code::Cancel);
            }
        }
        for id in awaiting {
            if let Some(at) = self.find(id) {
                self.fail_stream(at, NOT_TAKEN);
            }
        }
    }

    /// Whether the runtime filter of this worker should open a link on this connection: a stream waits for one, or the
    /// one that was there went silent.
    pub fn wants_publisher(&self) -> bool {
        let awaits = |app: &App| matches!(app.service, Service::Awaited { .. }) && app.trailers.is_none();
        self.bereaved > 0 || self.streams.iter().any(|stream| matches!(&stream.role, Role::App(app) if awaits(app)))
    }

    /// A publisher has opened a stream. It gets all streams that waited for it.
    pub(super) fn greet_publisher(&mut self, at: usize) {
        let Some(id) = self.streams.get(at).map(|stream| stream.id) else { return };
        let Some(Publisher { configuration, instance, .. }) = self.publisher_at(at) else { return };
        let (configuration, instance) = (configuration.clone(), instance.clone());
        let has_link = |publisher: &Publisher| publisher.instance == instance && !instance.is_empty();
        if self.publishers().any(|(_, publisher)| has_link(publisher)) {
            // Not ours any more when it is forgotten, so nothing else is told of its end.
            write_end(&mut self.out, id, false, &status("6", TWICE));
            self.streams.remove(at);
            return;
        }
        self.publishers.push(id);
        self.bereaved = 0;
        frame::write_headers(&mut self.out, 0, id, frame::RESPONSE);
        frame::write_number(&mut self.out, frame::WINDOW_UPDATE, id, PUBLISHER_WINDOW - DEFAULT_WINDOW);
        self.reply(id, FromBus::Hello { connection: self.number });
        for at in 0..self.streams.len() {
            let service = self.app_at(at).map(|app| &app.service);
            let Some(Service::Awaited { configuration: awaited, .. }) = service else { continue };
            if *awaited == configuration {
                self.assign(at, id);
            }
        }
    }

    /// The publishers and their streams, the newest last.
    fn publishers(&self) -> impl DoubleEndedIterator<Item = (u32, &Publisher)> {
        self.publishers.iter().filter_map(|id| match &self.streams.get(self.find(*id)?)?.role {
            Role::Publisher(publisher) => Some((*id, publisher)),
            Role::App(_) => None,
        })
    }

    /// The newest publisher that serves the configuration of a stream.
    pub(super) fn publisher_of(&self, at: usize) -> Option<u32> {
        let Role::App(App { service: Service::Awaited { configuration, .. }, .. }) = &self.streams.get(at)?.role else {
            return None;
        };
        self.publishers().rev().find(|(_, publisher)| publisher.configuration == *configuration).map(|(id, _)| id)
    }

    /// Hands a stream that waits to a publisher, with all that has come of it.
    pub(super) fn assign(&mut self, at: usize, publisher: u32) {
        let Some(app) = self.app_at(at) else { return };
        if let Service::Awaited { held, .. } = replace(&mut app.service, Service::By(publisher))
            && let Some(at) = self.find(publisher)
            && let Some(publisher) = self.publisher_at(at)
        {
            publisher.fresh.extend_from_slice(&held);
        }
    }

    /// Tells the publisher of a stream something about it, now or when there is one.
    pub(super) fn tell(&mut self, at: usize, message: FromBus<'_>) {
        let Some(app) = self.app_at(at) else { return };
        match &mut app.service {
            Service::Awaited { held, .. } => message.encode(held),
            Service::By(publisher) => {
                let publisher = *publisher;
                self.reply(publisher, message);
            }
            Service::Over => {}
        }
    }

    /// Ends all streams of a publisher that is gone.
    pub(super) fn lose_streams_of(&mut self, publisher: u32) {
        let served = |app: &App| matches!(app.service, Service::By(by) if by == publisher);
        let streams = self.streams.iter().filter(|stream| matches!(&stream.role, Role::App(app) if served(app)));
        for id in streams.map(|stream| stream.id).collect::<Vec<_>>() {
            if let Some(at) = self.find(id) {
                self.fail_stream(at, LOST);
            }
        }
    }

    /// Ends a stream by a word of the bus's own: after what its publisher has said, if that was the end of it.
    fn fail_stream(&mut self, at: usize, text: &str) {
        let Some(app) = self.app_at(at) else { return };
        app.service = Service::Over;
        if app.trailers.is_none() {
            app.trailers = Some(status("14", text));
        }
        self.settle(at);
    }

    /// Takes the next bytes of a publisher.
    pub(super) fn publish(&mut self, at: usize, id: u32, content: &[u8]) {
        let Some(publisher) = self.publisher_at(at) else { return };
        publisher.silent = 0;
        let mut joined = take(&mut publisher.partial);
        let mut rest = if joined.is_empty() {
            content
        } else {
            joined.extend_from_slice(content);
            &joined
        };
        let read = loop {
            match message::unframe(rest) {
                Ok(Some((messages, after))) => {
                    rest = after;
                    if !self.obey_all(id, messages) {
                        break false;
                    }
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        // Where it is now: the messages may have ended other streams.
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

    /// Does what the messages of a frame say; tells whether they are messages.
    fn obey_all(&mut self, publisher: u32, mut messages: &[u8]) -> bool {
        loop {
            match ToBus::take(&mut messages) {
                Ok(Some(message)) => self.obey(publisher, message),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn obey(&mut self, publisher: u32, message: ToBus<'_>) {
        let id = match message {
            ToBus::Beat => return,
            ToBus::Begin { stream }
            | ToBus::Data { stream, .. }
            | ToBus::End { stream, .. }
            | ToBus::Grant { stream, .. } => stream,
        };
        // One that has ended, which the publisher did not know, or another's.
        let Some(at) = self.find(id) else { return };
        let Some(stream) = self.streams.get_mut(at) else { return };
        let Role::App(app) = &mut stream.role else { return };
        if !matches!(app.service, Service::By(by) if by == publisher) {
            return;
        }
        if app.trailers.is_some() {
            return self.reset(at, Code::EnhanceYourCalm); // it has said that it would say no more
        }
        if !app.begun && matches!(message, ToBus::Begin { .. } | ToBus::Data { .. }) {
            app.begun = true;
            frame::write_headers(&mut self.out, 0, id, frame::RESPONSE);
        }
        match message {
            ToBus::Data { bytes, .. } => {
                if app.queue.len() > MAX_UNACKNOWLEDGED {
                    return self.reset(at, Code::EnhanceYourCalm);
                }
                // As a rule nothing waits, and the windows are wide.
                let sent = if app.queue.is_empty() {
                    send(&mut self.out, id, [&mut stream.window, &mut self.window], bytes)
                } else {
                    0
                };
                app.written += sent;
                app.queue.push(bytes.get(sent..).unwrap_or_default());
                self.settle(at);
            }
            ToBus::End { trailers, .. } => {
                app.trailers = Some(trailers.to_vec());
                self.settle(at);
            }
            ToBus::Grant { bytes, .. } => self.grant(at, usize::try_from(bytes).unwrap_or(0)),
            ToBus::Begin { .. } | ToBus::Beat => {}
        }
    }

    /// Sends what waits for a stream, as far as the windows let it and no more than `limit` bytes. Says whether there
    /// was anything to send.
    pub(super) fn pump(&mut self, at: usize, limit: usize) -> bool {
        let Some(stream) = self.streams.get_mut(at) else { return false };
        let queue = match &mut stream.role {
            Role::Publisher(publisher) => &mut publisher.replies,
            Role::App(app) => &mut app.queue,
        };
        let waiting = queue.waiting();
        let next = waiting.get(..limit).unwrap_or(waiting);
        let sent = send(&mut self.out, stream.id, [&mut stream.window, &mut self.window], next);
        queue.take(sent);
        if sent > 0
            && let Role::App(app) = &mut stream.role
        {
            app.written += sent;
            self.settle(at);
        }
        sent > 0
    }

    /// Sends what waits for any stream: the publishers first, which keep nobody waiting for long, then those of apps
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

    /// Has the publisher of a stream told what was written, and ends the stream when nothing waits before its end.
    fn settle(&mut self, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let id = stream.id;
        let Role::App(app) = &mut stream.role else { return };
        if let Some(trailers) = app.trailers.take_if(|_| app.queue.is_empty()) {
            write_end(&mut self.out, id, app.begun, &trailers);
            return self.forget(at);
        }
        if app.written < TOLD_AT_ONCE || app.due {
            return;
        }
        if let Service::By(publisher) = app.service {
            app.due = true;
            if let Some(publisher) = self.find(publisher).and_then(|at| self.publisher_at(at)) {
                publisher.due.push(id);
            }
        }
    }

    /// Tells a publisher something.
    pub(super) fn reply(&mut self, publisher: u32, message: FromBus<'_>) {
        if let Some(publisher) = self.find(publisher).and_then(|at| self.publisher_at(at)) {
            message.encode(&mut publisher.fresh);
        }
    }

    /// Sends what the last frame has given rise to: to each publisher one gRPC frame. While one waits for its window
    /// what was written is held back, so that it does not pile up.
    pub(super) fn send_replies(&mut self) {
        let mut next = 0;
        while let Some(at) = self.publishers.get(next).and_then(|publisher| self.find(*publisher)) {
            next += 1;
            let Some(publisher) = self.publisher_at(at) else { continue };
            let mut messages = take(&mut publisher.fresh);
            if publisher.replies.is_empty() {
                for stream in take(&mut publisher.due) {
                    let Some(app) = self.find(stream).and_then(|at| self.app_at(at)) else { continue };
                    app.due = false;
                    let bytes = u32::try_from(take(&mut app.written)).unwrap_or(u32::MAX);
                    FromBus::Written { stream, bytes }.encode(&mut messages);
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

/// The trailers of a status that the bus gives itself.
fn status(code: &str, text: &str) -> Vec<u8> {
    let mut trailers = Vec::new();
    message::add_trailer(&mut trailers, "grpc-status", code);
    message::add_trailer(&mut trailers, "grpc-message", text);
    trailers
}

/// Ends a response: by trailers, or, where it has not begun, by all that it has to say.
///
/// No `RST_STREAM` follows though the other side may be open: Envoy resets that itself, after it has passed on what it
/// holds.
fn write_end(out: &mut Vec<u8>, stream: u32, begun: bool, trailers: &[u8]) {
    if begun {
        frame::write_headers(out, frame::END_STREAM, stream, trailers);
    } else {
        frame::write_headers(out, frame::END_STREAM, stream, &[frame::RESPONSE, trailers].concat());
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
