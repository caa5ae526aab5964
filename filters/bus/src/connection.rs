//! The server's side of an HTTP/2 connection (RFC 9113), as far as the bus needs it.
//!
//! Header blocks are skipped, not decoded: what a stream is for is told by its body, and no header of a request
//! matters. That is sound although HPACK has state, since the state of a decoder is used for nothing but decoding
//! later blocks. What the bus itself encodes uses no state ([`frame::response`]).
//!
//! Frames on a stream that has ended are ignored whatever ended it: nothing is kept of it, and the client may have
//! sent them before it knew.

mod relay;

use alloc::vec::Vec;
use core::mem::take;

use crate::frame::{self, Code, Header, MAX_PAYLOAD};
use crate::message::{self, FromBus};
use crate::stream::{Publisher, Role, Stream, Subscriber};

/// What the client may send on one stream before it is granted more. Everything is handled as it comes, so this is no
/// memory: it lets a large event pass without a wait.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same for all streams of the connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The window of HTTP/2 before anything is said about it.
const DEFAULT_WINDOW: u32 = 65_535;

const MAX_WINDOW: i64 = 0x7fff_ffff;

/// The largest header block. It is not kept, but a client that never ends one is no client.
const MAX_HEADERS: usize = 256 * 1024;

/// One connection of the cluster, from its first byte to its last.
#[derive(Debug)]
pub struct Connection {
    number: u64,
    phase: Phase,
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// The header block that CONTINUATION frames go on with.
    headers: Option<HeaderBlock>,
    /// The highest stream that the client has opened.
    last_stream: u32,
    /// How many bytes of DATA the client takes on all streams.
    window: i64,
    /// The window of a new stream.
    initial_window: i64,
    /// How many bytes of DATA have come that are not yet granted again.
    received: usize,
    /// The open streams, in the order of their ids.
    streams: Vec<Stream>,
    /// The streams of the subscribers, in the order of their subscriptions.
    subscriptions: Vec<(u64, u32)>,
    /// The streams of the publishers, the newest last.
    publishers: Vec<u32>,
    /// The subscriber that was last served when the window of the connection opened.
    served: u32,
    out: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's preface is to come.
    Preface,
    /// Its settings are to come.
    Settings,
    Open,
    /// The client broke the protocol and was told so.
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct HeaderBlock {
    stream: u32,
    end_stream: bool,
    size: usize,
}

impl Connection {
    /// A connection with a number that its publishers and subscribers are told. No other connection has it.
    pub fn new(number: u64) -> Self {
        Self {
            number,
            phase: Phase::Preface,
            partial: Vec::new(),
            headers: None,
            last_stream: 0,
            window: i64::from(DEFAULT_WINDOW),
            initial_window: i64::from(DEFAULT_WINDOW),
            received: 0,
            streams: Vec::new(),
            subscriptions: Vec::new(),
            publishers: Vec::new(),
            served: 0,
            out: Vec::new(),
        }
    }

    /// Takes what has come, however it is cut, and returns what to send.
    ///
    /// After an error of the client that ends the connection, GOAWAY and a `RST_STREAM` for each stream are returned,
    /// and nothing ever again.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut joined = take(&mut self.partial);
        let mut rest = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        while self.phase != Phase::Failed {
            match self.next(rest) {
                Ok(Some(after)) => rest = after,
                Ok(None) => {
                    self.partial = rest.to_vec();
                    break;
                }
                Err(code) => self.fail(code),
            }
        }
        take(&mut self.out)
    }

    /// Takes the preface or one frame, and returns what follows it; `None` if more must come.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Code> {
        if self.phase == Phase::Preface {
            // Byte by byte: `starts_with` is `memcmp`, which a module without libc has not.
            if !frame::PREFACE.iter().zip(bytes).all(|(expected, byte)| expected == byte) {
                return Err(Code::Protocol);
            }
            let Some(rest) = bytes.get(frame::PREFACE.len()..) else { return Ok(None) };
            self.phase = Phase::Settings;
            self.greet();
            return Ok(Some(rest));
        }
        let Some((header, rest)) = Header::read(bytes) else { return Ok(None) };
        if header.length > MAX_PAYLOAD {
            return Err(Code::FrameSize);
        }
        let Some((payload, after)) = rest.split_at_checked(header.length) else { return Ok(None) };
        if self.phase == Phase::Settings {
            if header.kind != frame::SETTINGS || header.has(frame::ACK) {
                return Err(Code::Protocol);
            }
            self.phase = Phase::Open;
        }
        self.take(header, payload)?;
        self.send_replies();
        Ok(Some(after))
    }

    /// The settings of the bus, and its window for the connection.
    fn greet(&mut self) {
        let mut settings = Vec::from(frame::INITIAL_WINDOW_SIZE.to_be_bytes());
        settings.extend_from_slice(&STREAM_WINDOW.to_be_bytes());
        frame::write(&mut self.out, frame::SETTINGS, 0, 0, &settings);
        frame::write_number(&mut self.out, frame::WINDOW_UPDATE, 0, CONNECTION_WINDOW - DEFAULT_WINDOW);
    }

    /// Ends the connection. Its streams are reset one by one: a client waits for those that were open before GOAWAY.
    fn fail(&mut self, code: Code) {
        for stream in &self.streams {
            frame::write_number(&mut self.out, frame::RST_STREAM, stream.id, Code::Cancel as u32);
        }
        let [a, b, c, d] = self.last_stream.to_be_bytes();
        frame::write(&mut self.out, frame::GOAWAY, 0, 0, &[a, b, c, d, 0, 0, 0, code as u8]);
        let out = take(&mut self.out);
        *self = Self { phase: Phase::Failed, out, ..Self::new(self.number) };
    }

    fn take(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        // Nothing comes between the frames of a header block.
        if self.headers.is_some() != (header.kind == frame::CONTINUATION) {
            return Err(Code::Protocol);
        }
        let of_stream = match header.kind {
            frame::SETTINGS | frame::PING | frame::GOAWAY => Some(false),
            frame::DATA | frame::HEADERS | frame::PRIORITY | frame::RST_STREAM | frame::CONTINUATION => Some(true),
            _ => None,
        };
        if of_stream.is_some_and(|of_stream| of_stream != (header.stream != 0)) {
            return Err(Code::Protocol);
        }
        match header.kind {
            frame::DATA => self.take_data(header, payload),
            frame::HEADERS => self.take_headers(header, payload),
            frame::CONTINUATION => self.take_continuation(header),
            frame::RST_STREAM => self.take_reset(header, payload),
            frame::SETTINGS => self.take_settings(header, payload),
            frame::WINDOW_UPDATE => self.take_window(header, payload),
            frame::PING if payload.len() != 8 => Err(Code::FrameSize),
            frame::PING => {
                if !header.has(frame::ACK) {
                    frame::write(&mut self.out, frame::PING, frame::ACK, 0, payload);
                }
                Ok(())
            }
            frame::PRIORITY if payload.len() != 5 => Err(Code::FrameSize),
            // What is open goes on to its end.
            frame::GOAWAY if payload.len() < 8 => Err(Code::FrameSize),
            frame::PUSH_PROMISE => Err(Code::Protocol),
            _ => Ok(()),
        }
    }

    fn take_settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        const ENABLE_PUSH: u16 = 2;
        const MAX_FRAME_SIZE: u16 = 5;
        if header.has(frame::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Code::FrameSize) };
        }
        let mut rest = payload;
        while let Some(([high, low, value @ ..], after)) = rest.split_first_chunk::<6>() {
            rest = after;
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*high, *low]) {
                frame::INITIAL_WINDOW_SIZE => {
                    let window = i64::from(value);
                    if window > MAX_WINDOW {
                        return Err(Code::FlowControl);
                    }
                    for stream in &mut self.streams {
                        stream.window += window - self.initial_window;
                        if stream.window > MAX_WINDOW {
                            return Err(Code::FlowControl);
                        }
                    }
                    self.initial_window = window;
                }
                ENABLE_PUSH if value > 1 => return Err(Code::Protocol),
                // Larger frames than every client takes are never sent.
                MAX_FRAME_SIZE if !(0x4000..=0xff_ffff).contains(&value) => return Err(Code::Protocol),
                _ => {}
            }
        }
        if !rest.is_empty() {
            return Err(Code::FrameSize);
        }
        frame::write(&mut self.out, frame::SETTINGS, frame::ACK, 0, &[]);
        self.pump_all();
        Ok(())
    }

    fn take_window(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        let more = i64::from(frame::number(payload)? & 0x7fff_ffff);
        if header.stream == 0 {
            if more == 0 {
                return Err(Code::Protocol);
            }
            let was_shut = self.window == 0;
            self.window += more;
            if self.window > MAX_WINDOW {
                return Err(Code::FlowControl);
            }
            // Else what waits does so for the window of its stream.
            if was_shut {
                self.pump_all();
            }
            return Ok(());
        }
        let Some(at) = self.known(header.stream)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        stream.window += more;
        if more == 0 {
            self.reset(at, Code::Protocol);
        } else if stream.window > MAX_WINDOW {
            self.reset(at, Code::FlowControl);
        } else {
            self.pump(at, usize::MAX);
        }
        Ok(())
    }

    fn take_reset(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        frame::number(payload)?;
        if let Some(at) = self.known(header.stream)? {
            self.forget(at, true);
        }
        Ok(())
    }

    fn take_headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        const PRIORITY: u8 = 0x20;
        if header.stream.is_multiple_of(2) {
            return Err(Code::Protocol);
        }
        let block = frame::unpad(header, payload)?;
        if header.has(PRIORITY) && block.len() < 5 {
            return Err(Code::FrameSize);
        }
        self.headers = Some(HeaderBlock {
            stream: header.stream,
            end_stream: header.has(frame::END_STREAM),
            size: frame::HEADER + payload.len(),
        });
        self.finish_headers(header);
        Ok(())
    }

    fn take_continuation(&mut self, header: Header) -> Result<(), Code> {
        if let Some(block) = &mut self.headers {
            if block.stream != header.stream {
                return Err(Code::Protocol);
            }
            // With the headers of the frames, so that empty ones do not go on for ever.
            block.size += frame::HEADER + header.length;
            if block.size > MAX_HEADERS {
                return Err(Code::EnhanceYourCalm);
            }
        }
        self.finish_headers(header);
        Ok(())
    }

    /// Opens a stream, or ends the body of one, when all of its header block has come.
    fn finish_headers(&mut self, header: Header) {
        if !header.has(frame::END_HEADERS) {
            return;
        }
        let Some(block) = self.headers.take() else { return };
        let new = block.stream > self.last_stream;
        if new {
            self.last_stream = block.stream;
            self.streams.push(Stream {
                id: block.stream,
                window: self.initial_window,
                received: 0,
                half_closed: false,
                role: Role::Unnamed(Vec::new()),
            });
        }
        let Some(at) = self.find(block.stream) else { return };
        if self.streams.get(at).is_some_and(|stream| stream.half_closed) {
            self.reset(at, Code::StreamClosed);
        } else if block.end_stream {
            self.finish(at);
        } else if !new {
            self.reset(at, Code::Protocol);
        }
    }

    fn take_data(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        self.received += header.length;
        if self.received > CONNECTION_WINDOW as usize {
            return Err(Code::FlowControl);
        }
        grant(&mut self.out, 0, &mut self.received, CONNECTION_WINDOW);
        let content = frame::unpad(header, payload)?;
        let Some(at) = self.known(header.stream)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        if stream.half_closed {
            self.reset(at, Code::StreamClosed);
            return Ok(());
        }
        stream.received += header.length;
        if stream.received > STREAM_WINDOW as usize {
            self.reset(at, Code::FlowControl);
            return Ok(());
        }
        if !header.has(frame::END_STREAM) {
            grant(&mut self.out, header.stream, &mut stream.received, STREAM_WINDOW);
        }
        match &mut stream.role {
            Role::Unnamed(hello) => match hello.first().or(content.first()) {
                None => {}
                Some(0) => self.become_publisher(at, header.stream, content),
                Some(&message::SUBSCRIBER) => {
                    hello.extend(content.iter().take(message::HELLO - hello.len()));
                    if let Some(subscription) = message::subscription(hello) {
                        self.become_subscriber(at, header.stream, subscription);
                    }
                }
                Some(_) => self.reset(at, Code::Protocol),
            },
            Role::Publisher(_) => self.publish(at, header.stream, content),
            Role::Subscriber(_) => {}
        }
        if header.has(frame::END_STREAM)
            && let Some(at) = self.find(header.stream)
        {
            self.finish(at);
        }
        Ok(())
    }

    /// The client's side of a stream has ended.
    fn finish(&mut self, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        match stream.role {
            Role::Unnamed(_) => self.reset(at, Code::Protocol),
            Role::Publisher(_) => {
                let flags = frame::END_HEADERS | frame::END_STREAM;
                frame::write(&mut self.out, frame::HEADERS, flags, stream.id, &frame::trailers());
                self.forget(at, false);
            }
            Role::Subscriber(_) => stream.half_closed = true,
        }
    }

    /// Ends a stream by an error of its own.
    fn reset(&mut self, at: usize, code: Code) {
        if let Some(stream) = self.streams.get(at) {
            frame::write_number(&mut self.out, frame::RST_STREAM, stream.id, code as u32);
            self.forget(at, true);
        }
    }

    /// Drops a stream and all that waits for it.
    fn forget(&mut self, at: usize, tell_publisher: bool) {
        if at >= self.streams.len() {
            return;
        }
        let stream = self.streams.remove(at);
        match stream.role {
            Role::Unnamed(_) => {}
            Role::Publisher(publisher) => {
                self.publishers.retain(|publisher| *publisher != stream.id);
                for subscription in publisher.due {
                    if let Some(at) = self.subscriber(subscription)
                        && let Some(subscriber) = self.subscriber_at(at)
                    {
                        subscriber.due = false;
                        self.acknowledge(at);
                    }
                }
            }
            Role::Subscriber(subscriber) => {
                let subscription = subscriber.subscription;
                let Ok(place) = self.subscriptions.binary_search(&(subscription, stream.id)) else {
                    return; // another has taken its place
                };
                self.subscriptions.remove(place);
                if tell_publisher {
                    self.reply(subscriber.publisher, FromBus::Gone { subscription });
                }
            }
        }
    }

    /// Where the stream of a frame is; `None` if it has ended, an error if it was never opened.
    fn known(&self, id: u32) -> Result<Option<usize>, Code> {
        if id > self.last_stream || id.is_multiple_of(2) { Err(Code::Protocol) } else { Ok(self.find(id)) }
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    fn publisher_at(&mut self, at: usize) -> Option<&mut Publisher> {
        match &mut self.streams.get_mut(at)?.role {
            Role::Publisher(publisher) => Some(publisher),
            _ => None,
        }
    }

    fn publisher_or_newest(&mut self, publisher: u32) -> Option<&mut Publisher> {
        let open = self.publishers.contains(&publisher).then_some(publisher);
        self.publisher_at(self.find(open.or(self.publishers.last().copied())?)?)
    }

    fn subscriber_at(&mut self, at: usize) -> Option<&mut Subscriber> {
        match &mut self.streams.get_mut(at)?.role {
            Role::Subscriber(subscriber) => Some(subscriber),
            _ => None,
        }
    }

    fn subscriber(&self, subscription: u64) -> Option<usize> {
        let place = self.subscriptions.binary_search_by_key(&subscription, |(subscription, _)| *subscription).ok()?;
        self.subscriptions.get(place).and_then(|(_, stream)| self.find(*stream))
    }
}

/// Gives back what was received, when it is half of the window.
fn grant(out: &mut Vec<u8>, stream: u32, received: &mut usize, window: u32) {
    if *received >= window as usize / 2 {
        frame::write_number(out, frame::WINDOW_UPDATE, stream, u32::try_from(*received).unwrap_or(window));
        *received = 0;
    }
}
