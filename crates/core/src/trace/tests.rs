//! Spans as tables.

use super::*;
use crate::event::EventData;
use crate::execution::{Fixed, State};
use crate::failure::FailureKind;
use crate::id::Fence;
use crate::rank::HeadStarts;
use std::sync::Arc;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn event(kind: EventType, at: i64, attempt: u32) -> Event {
    let failure = matches!(kind, EventType::ExecutionRetrying | EventType::ExecutionFailed);
    let failure = failure.then(|| Failure {
        kind: FailureKind::Connection,
        code: "refused".into(),
        message: b"payload".to_vec(),
        retryable: true,
        attempt,
        engine_status: None,
    });
    let waits = matches!(kind, EventType::ExecutionRetrying);
    let data = EventData { failure, ready_at: waits.then_some(Time(at + 5)), ..EventData::default() };
    Event { seq: 0, kind, at: Time(at), attempt, data }
}

/// A row from the letters of its events, each a second after the one before: `s`ubmitted, `y` ready, `g`ranted,
/// `a`ttached, `r`etrying, `i`nterrupted, `c`ompleted, `f`ailed, `x` cancelled, re`d`riven, `l`ate result.
fn row(letters: &str) -> Execution {
    let mut history = Vec::new();
    let (mut attempt, mut generation, mut status) = (0, 1, Status::Pending);
    for (at, letter) in letters.chars().enumerate() {
        let kind = match letter {
            's' => EventType::ExecutionSubmitted,
            'y' => EventType::ExecutionReady,
            'g' => EventType::ExecutionStarted,
            'a' => EventType::ExecutionAttached,
            'r' => EventType::ExecutionRetrying,
            'i' => EventType::ExecutionInterrupted,
            'c' => EventType::ExecutionCompleted,
            'f' => EventType::ExecutionFailed,
            'x' => EventType::ExecutionCancelled,
            'd' => EventType::ExecutionRedriven,
            'l' => EventType::LateResult,
            other => panic!("no event: {other}"),
        };
        attempt += u32::from(letter == 'g');
        generation += u32::from(letter == 'd');
        status = match letter {
            'c' => Status::Completed,
            'f' => Status::Failed,
            'x' => Status::Cancelled,
            _ => status,
        };
        history.push(event(kind, at as i64 * 10, attempt));
    }
    let mut new = crate::lifecycle::NewExecution::plain(1);
    new.fixed.spec.trace = TraceContext::parse(&format!("00-{TRACE}-{PARENT}-01"));
    let fresh = crate::lifecycle::submit(new, &HeadStarts::default());
    let ended_at = history.last().map(|event| event.at);
    let state = State { status, generation, attempt, ended_at, fence: Fence(1), ..fresh.state };
    let fixed: Arc<Fixed> = fresh.fixed;
    Execution { fixed, state, history }
}

fn told_of(spans: &[Span]) -> String {
    let name = |piece| match piece {
        Piece::Execution => "execution",
        Piece::Queue => "queue",
        Piece::Attempt => "attempt",
        Piece::Call => "call",
    };
    let parent = |span: &Span| match span.parent {
        Some(id) if format!("{id:016x}") == PARENT => "caller",
        Some(id) => spans.iter().find(|s| s.id == id).map_or("nobody", |s| name(s.piece)),
        None => "nothing",
    };
    let one = |span: &Span| {
        let kind = span.failure.as_ref().map_or(String::new(), |(kind, code)| format!(" {kind}/{code}"));
        let (from, to) = (span.from.0, span.to.0);
        format!("{}{}<{} {from}-{to} {}{kind}", name(span.piece), span.attempt, parent(span), span.outcome)
    };
    spans.iter().map(one).collect::<Vec<_>>().join(" | ")
}

#[test]
fn a_history_becomes_spans() {
    let table = [
        (
            "sgac",
            "execution1<caller 0-30 completed | queue1<execution 0-10 started | \
             attempt1<execution 10-30 completed | call1<attempt 10-30 completed",
        ),
        (
            "sgryglc",
            "execution2<caller 0-60 completed | queue1<execution 0-10 started | \
             attempt1<execution 10-20 retried connection/refused | call1<attempt 10-20 retried connection/refused | \
             queue2<execution 30-40 started | attempt2<execution 40-60 completed | call2<attempt 40-60 completed",
        ),
        (
            "sgigx",
            "execution2<caller 0-40 cancelled | queue1<execution 0-10 started | \
             attempt1<execution 10-20 interrupted | call1<attempt 10-20 interrupted | \
             queue2<execution 20-30 started | attempt2<execution 30-40 cancelled | call2<attempt 30-40 cancelled",
        ),
        ("sx", "execution0<caller 0-10 cancelled | queue0<execution 0-10 cancelled"),
        (
            "sgfdgc",
            "execution2<caller 30-50 completed | queue2<execution 30-40 started | \
             attempt2<execution 40-50 completed | call2<attempt 40-50 completed",
        ),
        // The oldest events were folded away.
        ("c", "execution0<caller 0-0 completed"),
    ];
    for (letters, wanted) in table {
        let spans = spans(&row(letters));
        assert_eq!(told_of(&spans), wanted, "{letters}");
    }
}

#[test]
fn the_engine_is_told_the_span_that_is_exported_later() {
    let mut row = row("sgc");
    let call = spans(&row).into_iter().find(|span| span.piece == Piece::Call).unwrap();
    assert_eq!(call_traceparent(&row), Some(format!("00-{TRACE}-{:016x}-01", call.id)));
    let mut fixed = Fixed::clone(&row.fixed);
    fixed.spec.trace = None;
    row.fixed = Arc::new(fixed);
    assert_eq!((call_traceparent(&row), spans(&row)), (None, Vec::new()));
}

#[test]
fn spans_have_ids_of_their_own() {
    let mut ids = std::collections::BTreeSet::new();
    for trace in [1, 2, u128::MAX] {
        for generation in 1..4 {
            for piece in [Piece::Execution, Piece::Queue, Piece::Attempt, Piece::Call] {
                ids.extend((0..50).map(|attempt| span_id(trace, generation, piece, attempt)));
            }
        }
    }
    assert_eq!(ids.len(), 3 * 3 * 4 * 50);
}
