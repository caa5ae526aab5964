//! A gRPC call as bytes: framing, compression, deadlines, and the reply.

use std::io::{Read, copy};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::{Code, Status};

use super::room::Route;
use crate::budget::{Budget, Buffer, Exhausted};
use crate::config::{Limits, Secret};

/// The bytes in front of each message: whether it is compressed, and its length.
pub const FRAME_HEADER: usize = 5;

/// The encodings that are understood: `grpc-accept-encoding`, which goes with each status UNIMPLEMENTED, since an
/// encoding may be what is not.
pub const ACCEPTED_ENCODINGS: &str = "identity,gzip";

/// What a call is to: its path, and the method that this leads to, if it is served.
#[derive(Debug, Clone, Default)]
pub struct Target {
    path: String,
    route: Option<Route>,
}

impl From<&str> for Target {
    fn from(path: &str) -> Self {
        Self { path: path.to_owned(), route: Route::of(method(path)) }
    }
}

impl Target {
    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The service and the method.
    pub(super) fn method(&self) -> (&str, &str) {
        method(&self.path)
    }

    /// The method that is served.
    pub(super) fn route(&self) -> Option<Route> {
        self.route
    }
}

/// The service and the method of a path `/service/method`.
fn method(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or((path, ""))
}

/// What a request is, by its content type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Content {
    /// A request of HTTP.
    #[default]
    Http,
    /// A call of gRPC.
    Grpc,
    /// Neither: what begins as gRPC's name does and goes on otherwise, such as gRPC-Web.
    Unsupported(String),
}

impl From<&str> for Content {
    /// As Envoy tells them apart, whose replies depend on it.
    fn from(content_type: &str) -> Self {
        match content_type.strip_prefix(GRPC) {
            None => Self::Http,
            Some("") => Self::Grpc,
            Some(rest) if rest.starts_with('+') => Self::Grpc,
            Some(_) => Self::Unsupported(content_type.chars().take(100).collect()),
        }
    }
}

const GRPC: &str = "application/grpc";

/// The head of a call: of all its headers those that matter.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// From `content-type`.
    pub content: Content,
    /// From `:path`.
    pub target: Target,
    /// How long the caller waits, from `grpc-timeout`.
    pub timeout: Option<Duration>,
    /// How messages with the compressed flag are encoded, from `grpc-encoding`.
    pub encoding: Option<String>,
    /// `dapr-api-token`.
    pub token: Option<Secret>,
}

impl Head {
    /// Takes in a header if it matters.
    pub fn header(&mut self, name: &[u8], value: &[u8]) {
        let matters =
            matches!(name, b":path" | b"content-type" | b"grpc-timeout" | b"grpc-encoding" | b"dapr-api-token");
        // What is not text is none of what they may be.
        let Some(value) = matters.then(|| str::from_utf8(value).ok()).flatten() else { return };
        match name {
            b":path" => self.target = value.into(),
            b"content-type" => self.content = value.into(),
            b"grpc-timeout" => self.timeout = parse_timeout(value),
            b"grpc-encoding" => self.encoding = Some(value.to_owned()),
            _ => self.token = Some(value.into()),
        }
    }
}

/// What is taken from an app: the bounds of a message.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The most bytes.
    pub bytes: usize,
    /// The most elements.
    pub items: usize,
    /// What all calls of the worker may hold.
    pub budget: Budget,
}

impl Intake {
    /// What is configured.
    pub(super) fn new(limits: &Limits, budget: &Budget) -> Self {
        Self { bytes: limits.max_request_bytes, items: limits.max_items, budget: budget.clone() }
    }
}

/// The body of a request, counted on its way in.
#[derive(Debug)]
pub struct Body {
    buffer: Buffer,
    refused: Option<Exhausted>,
}

impl Body {
    /// An empty one.
    pub(super) fn new(budget: &Budget) -> Self {
        Self { buffer: Buffer::new(budget), refused: None }
    }

    /// Adds a part of it. `expected` is how many bytes there will be as a whole, or may be.
    pub(super) fn add(&mut self, bytes: Vec<u8>, expected: usize) {
        if self.refused.is_none() {
            self.refused = self.buffer.add(bytes, expected).err();
        }
    }

    /// What is there so far.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Why no more of it is taken, if so.
    pub(super) fn refused(&self) -> Option<Exhausted> {
        self.refused
    }

    /// The whole.
    pub(super) fn freeze(self) -> Result<Bytes, Exhausted> {
        self.refused.map_or_else(|| Ok(self.buffer.freeze()), Err)
    }
}

/// What the app gets.
#[derive(Debug)]
pub enum Reply {
    /// A message in its frame, and the status OK.
    Message(Bytes),
    /// A status alone.
    Status(Box<Status>),
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Reply {
    /// Frames a message.
    #[inline(never)] // as the two below: see `Handler::Unary`
    pub fn message(message: &impl Message) -> Self {
        let length = length_of(message);
        let Ok(prefix) = u32::try_from(length) else {
            return Status::resource_exhausted("the reply is larger than gRPC can frame").into();
        };
        let mut frame = BytesMut::with_capacity(FRAME_HEADER + length);
        frame.put_u8(0);
        frame.put_u32(prefix);
        write(message, &mut frame);
        Self::Message(frame.freeze())
    }

    /// How many bytes its message has, with the frame.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Message(frame) => frame.len(),
            Self::Status(_) => 0,
        }
    }

    /// Its status code.
    pub fn code(&self) -> Code {
        match self {
            Self::Message(_) => Code::Ok,
            Self::Status(status) => status.code(),
        }
    }
}

#[inline(never)]
fn length_of(message: &impl Message) -> usize {
    message.encoded_len()
}

#[inline(never)]
fn write(message: &impl Message, frame: &mut BytesMut) {
    message.encode_raw(frame);
}

/// The trailers that tell a status at the end of a stream, encoded as gRPC has them.
pub fn trailers(status: &Status) -> Vec<(&'static str, String)> {
    /// What gRPC encodes in messages: all but printable ASCII, and the sign itself.
    const MESSAGE: AsciiSet = CONTROLS.add(b'%');
    let mut trailers = vec![("grpc-status", (status.code() as i32).to_string())];
    if !status.message().is_empty() {
        trailers.push(("grpc-message", utf8_percent_encode(status.message(), &MESSAGE).to_string()));
    }
    if !status.details().is_empty() {
        trailers.push(("grpc-status-details-bin", STANDARD_NO_PAD.encode(status.details())));
    }
    trailers
}

/// What is said of a message over the limit.
pub fn too_large(limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "the message is larger than {limit} bytes, the limit set by limits.maxRequestBytes"
    ))
}

/// What is said of a message with more elements than are taken.
pub(super) fn too_many(limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "the call has more than {limit} items, the limit set by limits.maxItems: make several of it, or raise the limit"
    ))
}

/// What is said of a reply that Envoy would not pass on, of which so much is there.
pub fn reply_too_large(size: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "the reply has {size} bytes, more than the {limit} that can be sent at once: ask for fewer items, or raise \
         limits.maxRequestBytes"
    ))
}

/// What is said of a second message to a method that takes one.
pub fn one_message() -> Status {
    Status::internal("the method takes one message, and more came")
}

/// How long the first message says that it is, once its header has come.
pub fn declared_length(body: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = body.split_first_chunk::<FRAME_HEADER>()?;
    Some(length([a, b, c, d]))
}

fn length(prefix: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX)
}

/// The one message in the body of a unary call.
#[inline(never)]
pub fn message(mut body: Bytes, encoding: Option<&str>, intake: &Intake) -> Result<Bytes, Status> {
    let Some((&[flags, a, b, c, d], rest)) = body.split_first_chunk::<FRAME_HEADER>() else {
        return Err(Status::internal(match body.len() {
            0 => "the call ended without a message".to_owned(),
            length => format!("the frame of the message is cut off after {length} bytes"),
        }));
    };
    let length = length([a, b, c, d]);
    if length > intake.bytes {
        return Err(too_large(intake.bytes));
    }
    if rest.len() < length {
        let have = rest.len();
        return Err(Status::internal(format!("the message is cut off: {have} of {length} bytes came")));
    }
    if rest.len() > length {
        return Err(one_message());
    }
    body.advance(FRAME_HEADER);
    unpacked(flags, body, encoding, intake)
}

/// Takes the next message off a body that goes on; none when it has not come as a whole.
pub fn next_message(body: &mut BytesMut, encoding: Option<&str>, intake: &Intake) -> Result<Option<Bytes>, Status> {
    let Some((&[flags, a, b, c, d], rest)) = body.split_first_chunk::<FRAME_HEADER>() else { return Ok(None) };
    let length = length([a, b, c, d]);
    if length > intake.bytes {
        return Err(too_large(intake.bytes));
    }
    if rest.len() < length {
        return Ok(None);
    }
    let message = body.split_to(FRAME_HEADER + length).freeze().slice(FRAME_HEADER..);
    unpacked(flags, message, encoding, intake).map(Some)
}

fn unpacked(flags: u8, message: Bytes, encoding: Option<&str>, intake: &Intake) -> Result<Bytes, Status> {
    let message = match (flags, encoding) {
        (0, _) => Ok(message),
        (1, Some("gzip")) => inflate(&message, intake),
        (1, None | Some("identity")) => {
            Err(Status::internal("the message is said to be compressed, and no grpc-encoding says how"))
        }
        (1, Some(other)) => {
            Err(Status::unimplemented(format!("grpc-encoding {other:?} is not understood; gzip and identity are")))
        }
        (flags, _) => Err(Status::internal(format!("the frame begins with {flags}, which is no flag of gRPC"))),
    }?;
    if has_more_items(&message, intake.items) { Err(too_many(intake.items)) } else { Ok(message) }
}

/// Whether a message has more elements than that in its lists, taken together. It is asked before decoding, since an
/// element of two bytes weighs a hundred once it is decoded.
fn has_more_items(mut message: &[u8], most: usize) -> bool {
    /// Fields that are no list: no method has more.
    const FIELDS: usize = 16;
    const SHORTEST: usize = 2; // a tag, and a length or a number
    let most = most.saturating_add(FIELDS);
    if message.len() / SHORTEST <= most {
        return false;
    }
    let mut count = 0;
    while count <= most && !message.is_empty() {
        let skipped = decode_key(&mut message)
            .and_then(|(tag, wire)| skip_field(wire, tag, &mut message, DecodeContext::default()));
        if skipped.is_err() {
            return false; // which decoding will say
        }
        count += 1;
    }
    count > most
}

#[inline(never)]
fn inflate(message: &[u8], intake: &Intake) -> Result<Bytes, Status> {
    let mut plain = Inflated { buffer: Buffer::new(&intake.budget), most: intake.bytes, refused: None };
    let bound = u64::try_from(intake.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let inflated = copy(&mut flate2::read::GzDecoder::new(message).take(bound), &mut plain);
    match (plain.refused, inflated) {
        (Some(exhausted), _) => Err(exhausted.into()),
        (None, Ok(_)) if plain.buffer.bytes().len() > intake.bytes => Err(too_large(intake.bytes)),
        (None, Ok(_)) => Ok(plain.buffer.freeze()),
        (None, Err(error)) => Err(Status::internal(format!("the message is not gzip: {error}"))),
    }
}

/// Where an inflated message is collected.
struct Inflated {
    buffer: Buffer,
    most: usize,
    refused: Option<Exhausted>,
}

impl std::io::Write for Inflated {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.add(bytes.to_vec(), self.most).map_err(|exhausted| {
            self.refused = Some(exhausted);
            std::io::ErrorKind::OutOfMemory
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Decodes a message of protobuf.
#[inline(never)] // see `Handler::Unary`
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        let path = std::any::type_name::<M>();
        let name = path.rsplit("::").next().unwrap_or(path);
        Status::invalid_argument(format!("the message is not a {name}: {error}"))
    })
}

/// The text of `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn frame(flag: u8, length: u32, message: &[u8]) -> Bytes {
        [&[flag][..], &length.to_be_bytes(), message].concat().into()
    }

    fn intake() -> Intake {
        Intake { bytes: 100, items: 10, budget: Budget::default() }
    }

    fn refusal(body: &Bytes, encoding: Option<&str>) -> (Code, String) {
        let status = message(body.clone(), encoding, &intake()).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn a_plain_message() {
        assert_eq!(message(frame(0, 3, b"abc"), None, &intake()).unwrap(), "abc");
        assert_eq!(message(frame(0, 0, b""), Some("gzip"), &intake()).unwrap(), "");
    }

    #[test]
    fn a_gzipped_message_within_the_limit() {
        assert_eq!(message(gzip(b"abc"), Some("gzip"), &intake()).unwrap(), "abc");
        assert_eq!(refusal(&gzip(&[0; 10_000]), Some("gzip")).0, Code::ResourceExhausted);
    }

    fn gzip(plain: &[u8]) -> Bytes {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(plain).unwrap();
        let packed = gzip.finish().unwrap();
        frame(1, packed.len().try_into().unwrap(), &packed)
    }

    #[test]
    fn what_is_inflated_is_counted() {
        let intake = Intake { bytes: 1 << 20, items: 10, budget: Budget::default() };
        let plain = message(gzip(&vec![1; 500_000]), Some("gzip"), &intake).unwrap();
        assert!(intake.budget.held() >= 500_000);
        drop(plain);
        assert_eq!(intake.budget.held(), 0);
        intake.budget.set_limit(100_000);
        let status = message(gzip(&vec![1; 500_000]), Some("gzip"), &intake).unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("limits.maxMemoryBytes"), "{status}");
        assert_eq!(intake.budget.held(), 0);
    }

    #[test]
    fn elements_are_counted_before_they_are_decoded() {
        assert!(!has_more_items(&[0x12, 0].repeat(26), 10));
        assert!(has_more_items(&[0x12, 0].repeat(27), 10));
        let long = [&[0x0a, 0x80, 0x01][..], &[0; 128]].concat();
        assert!(!has_more_items(&long.repeat(26), 10), "it goes by elements, not by bytes");
        assert!(!has_more_items(&[0xff; 100], 10), "what is no message is left to decoding");
        let refused = message(frame(0, 54, &[0x12, 0].repeat(27)), None, &intake()).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("more than 10 items"), "{refused}");
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(refusal(&Bytes::new(), None), (Code::Internal, "the call ended without a message".into()));
        assert_eq!(refusal(&frame(0, 3, b"abcd"), None).0, Code::Internal);
        assert_eq!(refusal(&frame(0, 5, b"abcd"), None).1, "the message is cut off: 4 of 5 bytes came");
        assert_eq!(refusal(&frame(0, 101, b""), None).0, Code::ResourceExhausted);
        assert_eq!(refusal(&frame(1, 1, b"a"), None).0, Code::Internal);
        assert_eq!(refusal(&frame(1, 1, b"a"), Some("gzip")).0, Code::Internal);
        assert_eq!(refusal(&frame(2, 1, b"a"), None).0, Code::Internal);
        let status = message(frame(1, 1, b"a"), Some("zstd"), &intake()).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }

    #[test]
    fn a_status_as_trailers() {
        let status = Status::with_details(Code::Internal, "50% ü\n", Bytes::from_static(b"abcd"));
        let expected =
            [("grpc-status", "13"), ("grpc-message", "50%25 %C3%BC%0A"), ("grpc-status-details-bin", "YWJjZA")];
        assert_eq!(trailers(&status), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(trailers(&Status::ok("")), [("grpc-status", "0".to_owned())]);
    }

    #[test]
    fn only_grpc_itself_is_grpc() {
        for (content_type, expected) in [
            ("application/grpc", Content::Grpc),
            ("application/grpc+proto", Content::Grpc),
            ("application/json", Content::Http),
            ("", Content::Http),
        ] {
            assert_eq!(Content::from(content_type), expected, "{content_type}");
        }
        for other in [
            "application/grpc-web",
            "application/grpc-web-text+proto",
            "application/grpc;charset=utf-8",
            "application/grpcx",
        ] {
            assert_eq!(Content::from(other), Content::Unsupported(other.to_owned()));
        }
    }

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "m", "5", "5x", "123456789S", "-1S", "1µ"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_upset_it(body: Vec<u8>, encoding in proptest::option::of("gzip|identity|x")) {
            let _ = message(body.into(), encoding.as_deref(), &intake());
        }
    }
}
