//! Distributed tracing: the spans of an execution, derived from what is stored of it.
//!
//! The ids of spans follow from the trace, the generation and the attempt, so that an engine can be told its parent before the attempt has
//! ended, and anyone who derives the spans later, after a crash or on another node, gets the same ones.

use crate::event::{Event, EventType};
use crate::execution::{Execution, Status};
use crate::failure::Failure;
use crate::time::Time;

pub use crate::trace_context::TraceContext;

/// What a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Piece {
    /// One generation, from when it was submitted (or redriven) to its end: the root of the rest.
    Execution,
    /// From when it was due to its start, or to an end without one.
    Queue,
    /// One attempt, from its grant to its end.
    Attempt,
    /// The call of the engine that the attempt made; what the engine reports hangs under it.
    Call,
}

/// One span. Times are those of the store's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub piece: Piece,
    pub id: u64,
    /// `None`: the trace begins here.
    pub parent: Option<u64>,
    pub from: Time,
    pub to: Time,
    /// The attempt, from 1; of a queue span the one that it ended in, 0 for an end without one.
    pub attempt: u32,
    /// How it ended: a status, `retried` or `interrupted`; of a queue span `started` or a status.
    pub outcome: &'static str,
    /// Where it failed: kind and code, never what the engine said.
    pub failure: Option<(&'static str, String)>,
    pub worker: Option<String>,
    pub endpoint: Option<u32>,
    pub engine_run: Option<String>,
    /// The attempt took up a run that the engine had.
    pub reattached: bool,
}

/// The id of a span; the same for everyone who asks, never 0.
#[must_use]
pub fn span_id(trace: u128, generation: u32, piece: Piece, attempt: u32) -> u64 {
    let words = [trace as u64, (trace >> 64) as u64, u64::from(generation), piece as u64, u64::from(attempt)];
    // The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    let id = words.into_iter().fold(0x9e37_79b9_7f4a_7c15_u64, |sum, word| {
        let mut z = sum.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    id.max(1)
}

/// What the engine is told as the parent of what it does in the row's current attempt; `None` without a trace.
#[must_use]
pub fn call_traceparent(row: &Execution) -> Option<String> {
    let context = row.fixed.spec.trace?;
    let state = &row.state;
    Some(context.traceparent(span_id(context.trace, state.generation, Piece::Call, state.attempt)))
}

/// The spans of the row's generation, which has ended, the root first; none without a trace.
///
/// Of a history whose oldest events were folded away only what is left has spans of its own; the root is whole.
#[must_use]
pub fn spans(row: &Execution) -> Vec<Span> {
    let Some(context) = row.fixed.spec.trace else { return Vec::new() };
    let begins =
        |event: &Event| matches!(event.kind, EventType::ExecutionSubmitted | EventType::ExecutionRedriven);
    let first = row.history.iter().rposition(begins).unwrap_or(0);
    let events = &row.history[first..];
    let root = span_id(context.trace, row.state.generation, Piece::Execution, 0);
    let from = events.first().filter(|e| begins(e)).map_or(row.fixed.created_at, |event| event.at);
    let mut teller = Teller { row, context, root, waits: None, open: None, spans: Vec::new() };
    let failure = row.state.failure.as_ref().filter(|_| row.state.status == Status::Failed);
    teller.spans.push(Span {
        id: root,
        parent: context.parent,
        to: row.state.ended_at.unwrap_or(from),
        attempt: row.state.attempt,
        outcome: row.state.status.as_str(),
        failure: failure.map(told),
        ..blank(Piece::Execution, from)
    });
    events.iter().for_each(|event| teller.take_in(event));
    teller.spans
}

fn blank(piece: Piece, at: Time) -> Span {
    Span {
        piece,
        id: 0,
        parent: None,
        from: at,
        to: at,
        attempt: 0,
        outcome: "",
        failure: None,
        worker: None,
        endpoint: None,
        engine_run: None,
        reattached: false,
    }
}

fn told(failure: &Failure) -> (&'static str, String) {
    (failure.kind.as_str(), failure.code.clone())
}

struct Teller<'a> {
    row: &'a Execution,
    context: TraceContext,
    root: u64,
    /// Since when it is due, or will be.
    waits: Option<Time>,
    /// The attempt under way.
    open: Option<Span>,
    spans: Vec<Span>,
}

impl Teller<'_> {
    fn take_in(&mut self, event: &Event) {
        let due = event.data.ready_at.map_or(event.at, |ready| ready.max(event.at));
        match event.kind {
            EventType::ExecutionSubmitted | EventType::ExecutionRedriven => {
                self.waits = Some(due.max(self.row.state.clock_from));
            }
            EventType::ExecutionReady => self.waits = Some(event.at),
            EventType::ExecutionStarted => self.begin(event),
            EventType::ExecutionAttached => {
                if let Some(open) = &mut self.open {
                    open.engine_run.clone_from(&event.data.engine_run);
                }
            }
            EventType::ExecutionRetrying => {
                self.end(event, "retried");
                self.waits = Some(due);
            }
            EventType::ExecutionInterrupted => {
                self.end(event, "interrupted");
                self.waits = Some(due);
            }
            EventType::ExecutionCompleted => self.end(event, "completed"),
            EventType::ExecutionFailed => self.end(event, "failed"),
            EventType::ExecutionCancelled => self.end(event, "cancelled"),
            EventType::ExecutionCancelRequested | EventType::LateResult | EventType::OperatorAction => {}
        }
    }

    fn id(&self, piece: Piece, attempt: u32) -> u64 {
        span_id(self.context.trace, self.row.state.generation, piece, attempt)
    }

    fn waited(&mut self, until: Time, attempt: u32, outcome: &'static str) {
        // What never was due did not wait in the queue.
        if let Some(since) = self.waits.take().filter(|since| *since <= until) {
            let id = self.id(Piece::Queue, attempt);
            let span = blank(Piece::Queue, since);
            self.spans.push(Span { id, parent: Some(self.root), to: until, attempt, outcome, ..span });
        }
    }

    fn begin(&mut self, event: &Event) {
        self.waited(event.at, event.attempt, "started");
        self.open = Some(Span {
            id: self.id(Piece::Attempt, event.attempt),
            parent: Some(self.root),
            attempt: event.attempt,
            worker: event.data.worker.clone(),
            endpoint: event.data.endpoint,
            engine_run: event.data.engine_run.clone(),
            reattached: event.data.reattach,
            ..blank(Piece::Attempt, event.at)
        });
    }

    fn end(&mut self, event: &Event, outcome: &'static str) {
        let Some(open) = self.open.take() else { return self.waited(event.at, 0, outcome) };
        let failure = event.data.failure.as_ref().map(told);
        let attempt = Span { to: event.at.max(open.from), outcome, failure, ..open };
        let id = self.id(Piece::Call, attempt.attempt);
        let call = Span { piece: Piece::Call, id, parent: Some(attempt.id), ..attempt.clone() };
        self.spans.extend([attempt, call]);
    }
}

#[cfg(test)]
mod tests;
