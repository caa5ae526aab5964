//! What the bus keeps for each open stream.

use alloc::vec::Vec;

use crate::queue::Queue;

/// A stream that the client has opened and that has not ended both ways.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    /// How many bytes of DATA the client takes. A change of its settings can make it negative.
    pub(crate) window: i64,
    /// How many bytes of DATA have come that are not yet granted again.
    pub(crate) received: usize,
    /// Whether the client's side has ended.
    pub(crate) half_closed: bool,
    pub(crate) role: Role,
}

#[derive(Debug)]
pub(crate) enum Role {
    Publisher(Publisher),
    App(App),
}

#[derive(Debug, Default)]
pub(crate) struct Publisher {
    /// The configuration that it serves.
    pub(crate) configuration: Vec<u8>,
    pub(crate) instance: Vec<u8>,
    /// The beginning of a gRPC frame.
    pub(crate) partial: Vec<u8>,
    /// Messages for the publisher that share the next gRPC frame.
    pub(crate) fresh: Vec<u8>,
    /// The streams of which the next gRPC frame is to tell what was written.
    pub(crate) due: Vec<u32>,
    /// gRPC frames that wait for a window.
    pub(crate) replies: Queue,
    /// For how many ticks nothing has come from it.
    pub(crate) silent: u32,
}

/// A stream of an app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) service: Service,
    /// Whether the headers of the response are written.
    pub(crate) begun: bool,
    /// The bytes that wait for a window.
    pub(crate) queue: Queue,
    /// The trailers, when nothing more is to come but what waits.
    pub(crate) trailers: Option<Vec<u8>>,
    /// How many bytes are written of which the publisher was not told.
    pub(crate) written: usize,
    /// Whether this is among the `due` of its publisher.
    pub(crate) due: bool,
}

/// Who serves a stream.
#[derive(Debug)]
pub(crate) enum Service {
    /// Nobody yet: there is no publisher of its configuration on this connection.
    Awaited {
        configuration: Vec<u8>,
        /// What the publisher is to be told.
        held: Vec<u8>,
        /// For how many ticks.
        ticks: u32,
    },
    /// The publisher on this stream.
    By(u32),
    /// Nobody any more.
    Over,
}

impl App {
    pub(crate) fn new(configuration: Vec<u8>) -> Self {
        Self {
            service: Service::Awaited { configuration, held: Vec::new(), ticks: 0 },
            begun: false,
            queue: Queue::default(),
            trailers: None,
            written: 0,
            due: false,
        }
    }
}
