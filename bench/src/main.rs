//! Measures the runtime against its baselines in one run.

fn main() {}
