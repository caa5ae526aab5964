//! The server's side of an HTTP/2 connection (RFC 9113), as far as the bus needs it.
//!
//! Frames on a stream that has ended are ignored whatever ended it: nothing is kept of it, and the client may have
//! sent them before it knew.

mod relay;

use alloc::vec::Vec;
use core::mem::take;

use crate::frame::{self, Code, Header, MAX_PAYLOAD};
use crate::hpack::Decoder;
use crate::message::{self, CONFIGURATION_HEADER, FromBus, INSTANCE_HEADER, STREAM_WINDOW};
use crate::stream::{App, Publisher, Role, Service, Stream};

/// What a publisher may send before it is granted more. It is handled as it comes, so this is no memory: it lets a
/// large event pass without a wait.
const PUBLISHER_WINDOW: u32 = 1024 * 1024;

/// The same for all streams of the connection: what waits for publishers comes to no more than this.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The window of HTTP/2 before anything is said about it.
const DEFAULT_WINDOW: u32 = 65_535;

const MAX_WINDOW: i64 = 0x7fff_ffff;

/// The largest header block. Envoy's own bound for the headers of a request is 60 KiB.
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
    decoder: Decoder,
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
    /// The streams of the publishers, the newest last.
    publishers: Vec<u32>,
    /// For how many more ticks a publisher is asked for in the place of one that went silent.
    bereaved: u32,
    /// The stream that was last served when the window of the connection opened.
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

#[derive(Debug)]
struct HeaderBlock {
    stream: u32,
    end_stream: bool,
    /// How many bytes of frames it took so far.
    size: usize,
    bytes: Vec<u8>,
}

/// What the header block of a new stream says.
#[derive(Debug, Default)]
struct Head {
    is_publisher: bool,
    configuration: Vec<u8>,
    instance: Vec<u8>,
    /// All headers, for the publisher.
    headers: Vec<u8>,
}

impl Head {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        let is = |known: &str| known.as_bytes() == name;
        if is(CONFIGURATION_HEADER) {
            self.configuration = value.to_vec();
        } else if is(INSTANCE_HEADER) {
            self.instance = value.to_vec();
        } else {
            let (service, method) = message::PUBLISH;
            let path = [b"/", service.as_bytes(), b"/", method.as_bytes()];
            self.is_publisher |= name == b":path" && path.iter().copied().flatten().eq(value);
            message::add_header(&mut self.headers, name, value);
        }
    }
}

impl Connection {
    /// A connection with a number that its publishers are told. No other connection has it.
    pub fn new(number: u64) -> Self {
        Self {
            number,
            phase: Phase::Preface,
            partial: Vec::new(),
            headers: None,
            decoder: Decoder::new(),
            last_stream: 0,
            window: i64::from(DEFAULT_WINDOW),
            initial_window: i64::from(DEFAULT_WINDOW),
            received: 0,
            streams: Vec::new(),
            publishers: Vec::new(),
            bereaved: 0,
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
        self.grant_connection();
        Ok(Some(after))
    }

    /// The settings of the bus, and its window for the connection.
    fn greet(&mut self) {
        frame::write(&mut self.out, frame::SETTINGS, 0, 0, &[]);
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
            frame::CONTINUATION => self.take_continuation(header, payload),
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
            self.forget(at);
        }
        Ok(())
    }

    fn take_headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        const PRIORITY: u8 = 0x20;
        if header.stream.is_multiple_of(2) {
            return Err(Code::Protocol);
        }
        let mut block = frame::unpad(header, payload)?;
        if header.has(PRIORITY) {
            block = block.get(5..).ok_or(Code::FrameSize)?;
        }
        self.headers = Some(HeaderBlock {
            stream: header.stream,
            end_stream: header.has(frame::END_STREAM),
            size: frame::HEADER + payload.len(),
            bytes: block.to_vec(),
        });
        self.finish_headers(header)
    }

    fn take_continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        if let Some(block) = &mut self.headers {
            if block.stream != header.stream {
                return Err(Code::Protocol);
            }
            // With the headers of the frames, so that empty ones do not go on for ever.
            block.size += frame::HEADER + header.length;
            if block.size > MAX_HEADERS {
                return Err(Code::EnhanceYourCalm);
            }
            block.bytes.extend_from_slice(payload);
        }
        self.finish_headers(header)
    }

    /// Opens a stream, or ends the body of one, when all of its header block has come.
    fn finish_headers(&mut self, header: Header) -> Result<(), Code> {
        if !header.has(frame::END_HEADERS) {
            return Ok(());
        }
        let Some(block) = self.headers.take() else { return Ok(()) };
        let new = block.stream > self.last_stream;
        let mut head = Head::default();
        // Whatever it is for, it has to be decoded: the table is that of all blocks.
        self.decoder.decode(&block.bytes, |name, value| {
            if new {
                head.take(name, value);
            }
        })?;
        if new {
            self.last_stream = block.stream;
            self.open(block.stream, head);
        }
        let Some(at) = self.find(block.stream) else { return Ok(()) };
        if self.streams.get(at).is_some_and(|stream| stream.half_closed) {
            self.reset(at, Code::StreamClosed);
        } else if block.end_stream {
            self.finish(at);
        } else if !new {
            self.reset(at, Code::Protocol);
        }
        Ok(())
    }

    fn open(&mut self, id: u32, head: Head) {
        let window = self.initial_window;
        let stream = |role| Stream { id, window, received: 0, half_closed: false, role };
        if !head.is_publisher {
            self.streams.push(stream(Role::App(App::new(head.configuration))));
            self.tell(self.streams.len() - 1, FromBus::Head { stream: id, headers: &head.headers });
            if let Some(publisher) = self.publisher_of(self.streams.len() - 1) {
                self.assign(self.streams.len() - 1, publisher);
            }
            return;
        }
        let (configuration, instance) = (head.configuration, head.instance);
        let publisher = Publisher { configuration, instance, ..Publisher::default() };
        self.streams.push(stream(Role::Publisher(publisher)));
        self.greet_publisher(self.streams.len() - 1);
    }

    fn take_data(&mut self, header: Header, payload: &[u8]) -> Result<(), Code> {
        self.received += header.length;
        if self.received > CONNECTION_WINDOW as usize {
            return Err(Code::FlowControl);
        }
        let content = frame::unpad(header, payload)?;
        let Some(at) = self.known(header.stream)? else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        if stream.half_closed {
            self.reset(at, Code::StreamClosed);
            return Ok(());
        }
        stream.received += header.length;
        let ends = header.has(frame::END_STREAM);
        let window = match &stream.role {
            Role::Publisher(_) => PUBLISHER_WINDOW as usize,
            Role::App(_) => STREAM_WINDOW,
        };
        if stream.received > window {
            self.reset(at, Code::FlowControl);
            return Ok(());
        }
        match &stream.role {
            Role::Publisher(_) => {
                if !ends && stream.received >= window / 2 {
                    let granted = u32::try_from(take(&mut stream.received)).unwrap_or(PUBLISHER_WINDOW);
                    frame::write_number(&mut self.out, frame::WINDOW_UPDATE, header.stream, granted);
                }
                self.publish(at, header.stream, content);
            }
            Role::App(_) => {
                // What was no content the publisher never hears of.
                self.grant(at, header.length - content.len());
                if !content.is_empty() {
                    self.tell(at, FromBus::Data { stream: header.stream, bytes: content });
                }
            }
        }
        if ends && let Some(at) = self.find(header.stream) {
            self.finish(at);
        }
        Ok(())
    }

    /// Lets the client of a stream send more.
    fn grant(&mut self, at: usize, bytes: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let bytes = bytes.min(stream.received);
        stream.received -= bytes;
        if bytes > 0 && !stream.half_closed {
            let granted = u32::try_from(bytes).unwrap_or(0);
            frame::write_number(&mut self.out, frame::WINDOW_UPDATE, stream.id, granted);
        }
    }

    /// Lets the client send more on all streams together, when half of the window is used up: as much as does not wait
    /// here for a publisher.
    fn grant_connection(&mut self) {
        let half = CONNECTION_WINDOW as usize / 2;
        if self.received < half {
            return;
        }
        let waiting = |stream: &Stream| match &stream.role {
            Role::Publisher(publisher) => publisher.replies.len(),
            Role::App(App { service: Service::Awaited { held, .. }, .. }) => held.len(),
            Role::App(_) => 0,
        };
        let waiting: usize = self.streams.iter().map(waiting).sum();
        let granted = self.received.saturating_sub(waiting);
        if granted >= half {
            self.received -= granted;
            let granted = u32::try_from(granted).unwrap_or(CONNECTION_WINDOW);
            frame::write_number(&mut self.out, frame::WINDOW_UPDATE, 0, granted);
        }
    }

    /// The client's side of a stream has ended.
    fn finish(&mut self, at: usize) {
        let Some(stream) = self.streams.get_mut(at) else { return };
        let id = stream.id;
        stream.half_closed = true;
        match stream.role {
            Role::Publisher(_) => {
                let mut status = Vec::new();
                message::add_trailer(&mut status, "grpc-status", "0");
                frame::write_headers(&mut self.out, frame::END_STREAM, id, &status);
                self.forget(at);
            }
            Role::App(_) => self.tell(at, FromBus::HalfClose { stream: id }),
        }
    }

    /// Ends a stream by an error of its own.
    fn reset(&mut self, at: usize, code: Code) {
        if let Some(stream) = self.streams.get(at) {
            frame::write_number(&mut self.out, frame::RST_STREAM, stream.id, code as u32);
            self.forget(at);
        }
    }

    /// Drops a stream and all that waits for it.
    fn forget(&mut self, at: usize) {
        if at >= self.streams.len() {
            return;
        }
        let stream = self.streams.remove(at);
        match stream.role {
            Role::Publisher(_) => {
                self.publishers.retain(|publisher| *publisher != stream.id);
                self.lose_streams_of(stream.id);
            }
            Role::App(app) => {
                if let Service::By(publisher) = app.service {
                    self.reply(publisher, FromBus::Gone { stream: stream.id });
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
            Role::App(_) => None,
        }
    }

    fn app_at(&mut self, at: usize) -> Option<&mut App> {
        match &mut self.streams.get_mut(at)?.role {
            Role::App(app) => Some(app),
            Role::Publisher(_) => None,
        }
    }
}
