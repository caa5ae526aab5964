//! The metrics of calls. Envoy's have no labels here, so their names carry block, component, method and status; the
//! rendered bootstrap tells Envoy's stats how to take them out again as Prometheus labels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tonic::Code;

use crate::proxy::{Metric, Proxy};

/// The metrics of calls, by what they were about.
#[derive(Debug)]
pub struct Metrics {
    proxy: Rc<dyn Proxy>,
    /// By component and method. There are few of either: an unknown name never gets here.
    calls: RefCell<BTreeMap<&'static str, Vec<(String, OfMethod)>>>,
}

#[derive(Debug)]
struct OfMethod {
    /// Made when it is first recorded: streams have none.
    duration: Option<Metric>,
    by_status: Vec<(Code, Metric)>,
}

impl Metrics {
    /// No metrics yet.
    pub fn new(proxy: Rc<dyn Proxy>) -> Self {
        Self { proxy, calls: RefCell::default() }
    }

    /// Counts a call: `runtime.requests.<block>.<component>.<method>.<STATUS>`, and how long it took in
    /// `runtime.duration_us.<block>.<component>.<method>` if it is a unary one: a stream lasts as long as its app
    /// likes.
    pub fn count(&self, block: &str, component: &str, method: &'static str, code: Code, micros: Option<u64>) {
        let mut calls = self.calls.borrow_mut();
        let of_method = calls.entry(method).or_default();
        let known = of_method.iter().position(|(name, _)| name == component);
        let at = known.unwrap_or_else(|| {
            of_method.push((component.to_owned(), OfMethod { duration: None, by_status: Vec::new() }));
            of_method.len() - 1
        });
        let Some((_, metrics)) = of_method.get_mut(at) else { return };
        if let Some(micros) = micros {
            let duration = *metrics.duration.get_or_insert_with(|| {
                self.proxy.histogram(&format!("runtime.duration_us.{block}.{}.{method}", metric_part(component)))
            });
            self.proxy.record(duration, micros);
        }
        let counted = metrics.by_status.iter().find(|(known, _)| *known == code).map(|(_, metric)| *metric);
        let counter = counted.unwrap_or_else(|| {
            let component = metric_part(component);
            let name = format!("runtime.requests.{block}.{component}.{method}.{}", status_name(code));
            let counter = self.proxy.counter(&name);
            metrics.by_status.push((code, counter));
            counter
        });
        self.proxy.add(counter, 1);
    }
}

/// A name as one part of the name of a metric.
pub fn metric_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// The name of a status as gRPC writes it.
fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
