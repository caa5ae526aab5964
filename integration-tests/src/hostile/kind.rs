//! Who takes part. Each kind can be left out, so that a finding can be narrowed down.

use std::fmt;

use clap::ValueEnum;

/// A kind of client, or of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Calls of every method with random messages: valid, half valid, badly framed, compressed, cut off, a byte at a
    /// time.
    Random,
    /// Requests on the HTTP port, in HTTP/1 and HTTP/2, whole and broken.
    Http,
    /// Thousands of calls at once.
    Burst,
    /// Streams opened and dropped, and streams that are flooded.
    Streams,
    /// Clients that read nothing.
    Mute,
    /// Connections closed in the middle of calls.
    Drop,
    /// Calls that ask for very much.
    Greedy,
    /// Small calls all the time: whether a worker stands still.
    Pulse,
    /// Whether what is read was written.
    State,
    /// Whether etags guard a counter.
    Etags,
    /// Whether a lock has one holder.
    Locks,
    /// Whether an id is given once.
    Sequences,
    /// Whether subscriptions hear of changes.
    Subscriptions,
    /// Calls to servers that answer with garbage.
    Garbage,
    /// Servers are killed and started again.
    Kill,
    /// Servers are stopped and let go on.
    Pause,
    /// Servers are far away, or send in small pieces.
    Slow,
    /// Connections to servers are cut in the middle of replies.
    Cut,
    /// The listener gets a new configuration.
    Reload,
    /// VMs are made to trap: where it is named with `--only`, to see that it is found out. It needs the filters of
    /// `make filters-for-tests`.
    Trap,
    /// All clients are silent for more than a minute, then call with deadlines.
    Silence,
    /// Memory and file descriptors, when all is over.
    Rest,
}

impl Kind {
    /// Whether it is a fault rather than a client.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Kill | Self::Pause | Self::Slow | Self::Cut | Self::Reload | Self::Trap | Self::Silence)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no kind is hidden");
        formatter.pad(value.get_name())
    }
}
